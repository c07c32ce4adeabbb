"""Histories from offline events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphs.data.histories import history_batch
from tests.support.interactions import interactions


def test_offline_histories_are_padded_like_those_of_the_store() -> None:
    events = interactions([(user, item, float(item)) for user in (0, 1) for item in range(5)])
    batch = history_batch(events, [0, 6], [5, 10], np.zeros(2), np.zeros((2, 0), np.float32), "v")
    assert batch.item_BH.tolist() == [[0, 1, 2, 3, 4], [1, 2, 3, 4, -1]]
    assert batch.timestamp_BH[1].tolist() == [1.0, 2.0, 3.0, 4.0, 0.0]
    assert batch.weight_BH[1].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert batch.seen_BH[1].tolist() == [True, True, True, True, False]
    assert batch.model_version == "v"


def test_an_offline_event_is_seen_for_as_long_as_its_type_says() -> None:
    events = interactions([(user, item, float(item)) for user in (0, 1) for item in range(3)])
    events = replace(events, seen_s_E=np.array([0.0, 5.0, np.inf] * 2))
    batch = history_batch(events, [0, 3], [3, 6], np.array([5.9, 6.1]), np.zeros((2, 0), np.float32), "v")
    assert batch.seen_BH.tolist() == [[False, True, True], [False, False, True]]
