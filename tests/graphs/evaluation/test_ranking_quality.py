"""The metrics follow their formulas."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from graphs.data.splits import Parts
from graphs.evaluation.ranking_quality import HeldOutUsers
from tests.support.interactions import interactions


def test_metrics_follow_their_formulas() -> None:
    known = interactions([(0, 0, 1), (1, 0, 1), (1, 1, 2)])
    test = interactions([(0, 2, 9), (0, 3, 9), (1, 4, 9)])
    held_out = HeldOutUsers(Parts(known, known, test), 6)
    answers = np.full((2, 100), -1, np.int32)
    answers[0, :3], answers[1, :2] = [5, 2, 3], [5, 0]
    metrics = held_out(answers)
    ideal = 1 + 1 / np.log2(3)
    assert metrics["ndcg@10"] == pytest.approx(((1 / np.log2(3) + 1 / 2) / ideal + 0) / 2)
    assert metrics["hit_rate@10"] == 0.5
    assert metrics["recall@50"] == 0.5
    assert metrics["coverage@10"] == pytest.approx(4 / 6)
    novelty = {0: -np.log2(3 / 3), 2: -np.log2(1 / 3), 3: -np.log2(1 / 3), 5: -np.log2(1 / 3)}
    assert metrics["novelty@10"] == pytest.approx(np.mean([novelty[i] for i in (5, 2, 3, 5, 0)]))
    scores = np.arange(12.0).reshape(2, 6)
    assert held_out.top(lambda rows: scores[rows])[0, :5].tolist() == [5, 4, 3, 2, 1], "item 0 was seen"


def test_items_that_may_not_be_answered_are_not_wanted_and_are_counted() -> None:
    history = interactions([(0, 0, 1), (1, 1, 1), (1, 2, 2)])
    test = interactions([(0, 0, 9), (0, 3, 9), (1, 1, 9)])
    held_out = HeldOutUsers(Parts(history, history, test), 6)
    assert held_out.users.tolist() == [0], "all that user 1 wants is seen"
    assert held_out.nothing_left == 1
    assert held_out.answerable == pytest.approx(1 / 3)
    assert held_out(np.array([[3]], np.int32))["ndcg@10"] == 1.0


def test_an_item_that_may_come_again_is_wanted_and_one_whose_time_is_over_too() -> None:
    history = interactions([(0, 0, 1), (0, 1, 1), (0, 2, 1)])
    history = dataclasses.replace(history, seen_s_E=np.array([0.0, 5.0, 20.0]))
    held_out = HeldOutUsers(Parts(history, history, interactions([(0, 0, 9), (0, 1, 9), (0, 2, 9)])), 6)
    assert held_out.wanted_U.tolist() == [2]
    assert held_out.top(lambda rows: np.zeros((rows.stop - rows.start, 6)))[0, :5].tolist() == [0, 1, 3, 4, 5]


def test_the_ceiling_is_the_ideal_order_of_the_candidates() -> None:
    history = interactions([(0, 0, 1), (1, 0, 1)])
    held_out = HeldOutUsers(Parts(history, history, interactions([(0, 2, 9), (0, 3, 9), (1, 4, 9)])), 6)
    lists = np.array([[5, 1, 3, -1], [1, 5, 3, 2]], np.int32)
    assert held_out.ceiling(lists) == pytest.approx((1 / (1 + 1 / np.log2(3)) + 0) / 2)
    assert held_out.ceiling(lists) >= held_out(lists)["ndcg@10"]
    assert held_out.recall(lists) == pytest.approx(0.25)


def test_of_many_users_some_are_drawn() -> None:
    history = interactions([(user, 0, 1) for user in range(50)])
    test = interactions([(user, 1 + user % 3, 9) for user in range(50)])
    held_out = HeldOutUsers(Parts(history, history, test), 4, most_users=20)
    assert (len(held_out), held_out.drawn_from, held_out.events) == (20, 50, 20)
    assert held_out((1 + held_out.users % 3).astype(np.int32)[:, None])["hit_rate@10"] == 1.0
