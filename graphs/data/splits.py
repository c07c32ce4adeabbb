"""Divides events by time into a training and a test part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from deployments.errors import DataError
from deployments.messages import Array, Bools, Ints
from graphs.data.data_file import INTERACTIONS
from graphs.data.dataset import Interactions
from graphs.data.repeats import ENOUGH_USERS, LEAST_NEEDED, MOST_NEEDED, TEST_SHARE, least_targets

RANKING_SHARE = 0.3
"""Share of a user's targets in the training part that the ranking model learns to find."""

SplitKind = Literal["user", "time"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The events, divided. A target is an event that the models learn to predict (`Interactions.target_E`)."""

    train: Interactions
    """What the models are fitted on."""
    history: Interactions
    """What the store holds when a test user asks: the user's events before their first test event. Split per user, it
    is `train` itself."""
    test: Interactions
    """The targets that answers should name."""
    cold_users: int = 0
    """Users left out of `test`: nothing is known of them before their first test event."""


@dataclass(frozen=True, slots=True)
class Split:
    """How the test part is chosen. Called with events, it divides them; the manifest keeps its fields.

    `user`: of each user with `least` targets or more, the last TEST_SHARE of them, at least one. The training part has
    all events before the user's first test event. `time`: of all users, the targets from `at` on. The training part has
    the events before `at`. Events after the cut that are no targets are in neither.
    """

    kind: SplitKind = "user"
    least: int = MOST_NEEDED
    at: float = 0.0
    """Unix seconds; 0 for a split per user."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Split:
        """The split that an artifact was trained with. `settings`: of its manifest."""
        return cls(**settings.get("split", {}))

    @classmethod
    def choose(cls, kind: SplitKind, events: Interactions) -> Split:
        """The split of `kind` that suits `events`.

        Raises:
            DataError: `time`, and no time divides the targets.
        """
        if kind == "time":
            return cls("time", 1, _cut(events))
        return cls("user", least_targets(_target_counts(events), ENOUGH_USERS, LEAST_NEEDED))

    def settings(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    def __str__(self) -> str:
        if self.kind == "time":
            return f"the targets of all users from {np.datetime64(int(self.at), 's')} UTC on"
        few = "" if self.least == MOST_NEEDED else f" (fewer than {ENOUGH_USERS} users have {MOST_NEEDED})"
        return f"per user with {self.least} or more targets{few}, the last {TEST_SHARE:.0%} of them, at least one"

    def __call__(self, events: Interactions) -> Parts:
        """Divides `events`."""
        if self.kind == "user":
            train, test = temporal_split(events, TEST_SHARE, self.least)
            return Parts(train, train, test)
        test_E = events.target_E & (events.timestamp_E >= self.at)
        before_E = _before_first(events, test_E)
        known = np.zeros(int(events.user_E.max()) + 1, np.bool_)
        known[events.user_E[before_E]] = True
        cold_users = len(np.unique(events.user_E[test_E & ~known[events.user_E]]))
        test = events.take(test_E & known[events.user_E])
        return Parts(events.take(events.timestamp_E < self.at), events.take(before_E), test, cold_users)


def temporal_split(
    events: Interactions, share: float = TEST_SHARE, least: int = MOST_NEEDED
) -> tuple[Interactions, Interactions]:
    """Splits per user into (train, test).

    The test part has the last `share` of the targets of each user with `least` or more, at least one, but never the
    user's first event. The train part has all events before the user's first test event, and all events of the other
    users.
    """
    rank_E, count_E = _target_ranks(events)
    n_test_E = np.where(count_E >= least, np.maximum(1, np.rint(count_E * share)), 0)
    first_E = np.diff(events.user_E, prepend=-1) != 0
    test_E = events.target_E & (rank_E >= count_E - n_test_E) & ~first_E
    return events.take(_before_first(events, test_E)), events.take(test_E)


def ranking_split(train: Interactions) -> tuple[Interactions, Interactions]:
    """Splits the training part per user into what is known and what the ranking model learns to find, for at least half
    of the users with a target.
    """
    half = -(-len(np.unique(train.user_E[train.target_E])) // 2)
    return temporal_split(train, RANKING_SHARE, least_targets(_target_counts(train), half, lowest=1))


def _before_first(events: Interactions, test_E: Bools) -> Bools:
    """The events before the first test event of their user [E]."""
    first_test: Array = np.full(int(events.user_E.max(initial=0)) + 1, len(events), np.int64)
    np.minimum.at(first_test, events.user_E[test_E], np.flatnonzero(test_E))
    before_E: Bools = np.arange(len(events)) < first_test[events.user_E]
    return before_E


def _cut(events: Interactions) -> float:
    """The time [s] after which about TEST_SHARE of the targets lie; some lie before it."""
    time_T = np.sort(events.timestamp_E[events.target_E])
    edges = np.flatnonzero(np.diff(time_T) > 0) + 1  # targets before each time at which the events can be divided
    if not len(edges):
        raise DataError(
            f"{INTERACTIONS}: all targets have the same timestamp, so no time divides them; mend the timestamps, "
            "or train with --split user"
        )
    return float(time_T[edges[np.abs(edges - len(time_T) * (1 - TEST_SHARE)).argmin()]])


def _target_counts(events: Interactions) -> Ints:
    """The targets of each user."""
    return np.bincount(events.user_E, weights=events.target_E).astype(np.int32)


def _target_ranks(events: Interactions) -> tuple[Ints, Ints]:
    """Per event [E]: the user's targets before it, and all targets of the user."""
    count_U = _target_counts(events)
    before_U = np.cumsum(count_U) - count_U
    rank_E = np.cumsum(events.target_E) - events.target_E - before_U[events.user_E]
    return rank_E.astype(np.int32), count_U[events.user_E]
