"""NDCG against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from monitoring.drift.ranking_metrics import ndcg


def test_hits_are_discounted_by_their_place_and_divided_by_the_ideal() -> None:
    hit_BT = np.array([[False, True, True], [True, True, False]])
    found_B = ndcg(hit_BT, np.array([2, 5]), cutoff=3)
    ideal = [1 + 1 / np.log2(3), 1 + 1 / np.log2(3) + 1 / 2]
    assert found_B[0] == pytest.approx((1 / np.log2(3) + 1 / 2) / ideal[0])
    assert found_B[1] == pytest.approx((1 + 1 / np.log2(3)) / ideal[1])


def test_a_list_shorter_than_the_cutoff_is_measured_against_the_whole_ideal() -> None:
    assert ndcg(np.array([[True]]), np.array([9]), cutoff=10)[0] == pytest.approx(
        1 / (1 / np.log2(np.arange(2, 11))).sum()
    )


def test_places_past_the_cutoff_and_lists_without_relevant_items_count_nothing() -> None:
    assert ndcg(np.array([[False, True], [False, False]]), np.array([1, 0]), cutoff=1).tolist() == [0.0, 0.0]
