"""Histories from offline events."""

from __future__ import annotations

import numpy as np

from graphs.data.histories import history_batch
from tests.support.interactions import interactions


def test_offline_histories_are_padded_like_those_of_the_store() -> None:
    events = interactions([(user, item, float(item)) for user in (0, 1) for item in range(5)])
    batch = history_batch(events, [0, 6], [5, 10], np.zeros((2, 0), np.float32), "v")
    assert batch.item_BH.tolist() == [[0, 1, 2, 3, 4], [1, 2, 3, 4, -1]]
    assert batch.timestamp_BH[1].tolist() == [1.0, 2.0, 3.0, 4.0, 0.0]
    assert batch.weight_BH[1].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert batch.model_version == "v"
