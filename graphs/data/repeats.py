"""Events on items that the same user had before: which of them an answer could have had, by what counts as seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from deployments.messages import Array, Bools

TEST_SHARE = 0.2
"""Share of the targets that are the test part."""

MOST_NEEDED, LEAST_NEEDED = 5, 2
"""Targets that a test user has at least: the first, where ENOUGH_USERS have so many, else down to the second."""

ENOUGH_USERS = 200
"""Test users below which the figures are a rough guide."""

MIN_USERS = 10
"""Fewest users that training takes."""


def least_targets(count_U: Array, wanted_users: int, lowest: int) -> int:
    """The most targets, from MOST_NEEDED down to `lowest`, that `wanted_users` have. `count_U`: of each user."""
    enough = (n for n in range(MOST_NEEDED, lowest, -1) if (count_U >= n).sum() >= wanted_users)
    return next(enough, lowest)


def taken_out(user_E: Array, item_E: Array, timestamp_E: Array, seen_until_E: Array) -> Bools:
    """bool [E]: an earlier event of the user took the item out of the answers of that time.

    The events are sorted by user, then time.
    """
    order = np.lexsort((np.arange(len(user_E)), item_E, user_E))  # per user and item, in time
    same = np.append(False, (user_E[order][1:] == user_E[order][:-1]) & (item_E[order][1:] == item_E[order][:-1]))
    group = np.cumsum(~same)
    values, rank_E = np.unique(seen_until_E[order], return_inverse=True)
    until = np.maximum.accumulate(group * len(values) + rank_E) - group * len(values)
    before = np.append(0, until[:-1])
    out_E = np.zeros(len(user_E), np.bool_)
    out_E[order] = same & (values[before] > timestamp_E[order]) if len(values) else False
    return out_E


class Judged(NamedTuple):
    """How many users can be judged."""

    least: int
    """Successes that a user needs."""
    with_successes: int
    """Users with so many or more."""
    answerable: int
    """Of these, users with a success among the last TEST_SHARE that an answer could have had."""


def judged_users(user_E: Array, target_E: Bools, out_E: Bools) -> Judged:
    """Counts the users. `out_E`: as `taken_out`."""
    users_T, out_T = user_E[target_E], out_E[target_E]
    if not len(users_T):
        return Judged(LEAST_NEEDED, 0, 0)
    count_U = np.bincount(users_T)
    rank_T = np.arange(len(users_T)) - (np.cumsum(count_U) - count_U)[users_T]
    least = least_targets(count_U, ENOUGH_USERS, LEAST_NEEDED)
    enough_T = count_U[users_T] >= least
    late_T = rank_T >= count_U[users_T] - np.maximum(1, np.rint(count_U[users_T] * TEST_SHARE))
    return Judged(least, len(np.unique(users_T[enough_T])), len(np.unique(users_T[enough_T & late_T & ~out_T])))
