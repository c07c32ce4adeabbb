"""Splits events by time into a training and a test part, and checks that enough of them remain to train on."""

from __future__ import annotations

import numpy as np

from deployments.errors import DataError
from deployments.messages import Ints
from graphs.data.dataset import Dataset, Interactions

MIN_ITEMS, MIN_USERS = 10, 10


def check_trainable(dataset: Dataset, n_candidates: int) -> None:
    """Refuses, before training starts, a data set that training would fail on.

    Raises:
        DataError: too few items, or too few users with enough successes; the text has the counts.
    """
    n_items = len(dataset.items)
    if n_items < max(n_candidates, MIN_ITEMS):
        raise DataError(
            f"items.parquet has {n_items} items; it takes {MIN_ITEMS}, and stages.candidates.config.n_candidates "
            f"({n_candidates}) must not be more than there are"
        )
    train, test = temporal_split(dataset.interactions)
    users = len(np.unique(temporal_split(train)[1].user_E)) if len(train) else 0
    if users < MIN_USERS or not len(test):
        raise DataError(
            f"interactions.parquet: after the test set is split off, {users} users have 5 or more successes (weight "
            f"0.8 or more); it takes {MIN_USERS}. Bring more events, or weigh event types higher"
        )


def temporal_split(
    events: Interactions, share: float = 0.2, min_successes: int = 5
) -> tuple[Interactions, Interactions]:
    """Splits into (train, test).

    The test part has the last `share` of the successes of each user with `min_successes` or more. The train part has
    all events before the user's first test event, and all events of the other users. Events after the cut that are no
    successes are in neither.
    """
    rank_E, count_E = _success_ranks(events)
    n_test_E = np.where(count_E >= min_successes, np.maximum(1, np.rint(count_E * share)), 0)
    test_E = events.target_E & (rank_E >= count_E - n_test_E)
    first_test = np.full(events.user_E.max() + 1, len(events), np.int64)
    np.minimum.at(first_test, events.user_E[test_E], np.flatnonzero(test_E))
    train_E = np.arange(len(events)) < first_test[events.user_E]
    return events.take(train_E), events.take(test_E)


def _success_ranks(events: Interactions) -> tuple[Ints, Ints]:
    """Per event [E]: the user's successes before it, and all successes of the user."""
    count_U = np.bincount(events.user_E, weights=events.target_E).astype(np.int32)
    before_U = np.cumsum(count_U) - count_U
    rank_E = np.cumsum(events.target_E) - events.target_E - before_U[events.user_E]
    return rank_E.astype(np.int32), count_U[events.user_E]
