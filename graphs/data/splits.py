"""Splits events by time into a training and a test part."""

from __future__ import annotations

import numpy as np

from deployments.messages import Ints
from graphs.data.dataset import Interactions


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
