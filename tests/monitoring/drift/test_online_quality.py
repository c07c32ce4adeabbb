"""Online quality: answers joined with their events."""

from __future__ import annotations

import numpy as np
import pytest

from monitoring.drift.online_quality import OnlineQuality, OnlineQualityConfig, gini, is_sampled


def test_an_answer_counts_once_it_is_mature_and_events_after_that_do_not() -> None:
    quality = OnlineQuality(OnlineQualityConfig(mature_s=10), 100)
    quality.add([("r1", (1, 2), False), ("r2", (1, 2), False)], [], now=0)
    assert quality.report(5)["ctr"] is None
    quality.add([], [("r1", 1, 1.0)], now=9)
    quality.add([], [("r2", 1, 1.0)], now=11)
    assert quality.report(12)["ctr"] == 0.5


def test_of_several_answers_with_one_id_the_first_counts() -> None:
    quality = OnlineQuality(OnlineQualityConfig(mature_s=10), 100)
    for minute in range(3):  # a retry, or a caller that gives every request the same id
        quality.add([("mine", (1, 2), False)], [("mine", 1, 1.0)], now=6 * minute)
    report = quality.report(13)
    assert (report["answers"], report["mature_answers"], report["ctr"]) == (1, 1, 1.0)


def test_gini_is_0_for_equal_and_near_1_for_one_item() -> None:
    assert gini(np.full(50, 3)) == pytest.approx(0)
    assert gini(np.array([0] * 99 + [7])) == pytest.approx(0.99)


def test_a_request_is_sampled_in_every_process_or_in_none() -> None:
    ids = [f"request-{n}" for n in range(4000)]
    assert 0.2 < np.mean([is_sampled(i, 0.25) for i in ids]) < 0.3
    assert [is_sampled(i, 0.25) for i in ids] == [is_sampled(i, 0.25) for i in ids]
    assert all(is_sampled(i, 0.5) for i in ids if is_sampled(i, 0.25))
