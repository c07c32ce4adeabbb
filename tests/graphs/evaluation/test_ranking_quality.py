"""The metrics follow their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from graphs.evaluation.ranking_quality import HeldOutUsers
from tests.support.interactions import interactions


def test_metrics_follow_their_formulas() -> None:
    known = interactions([(0, 0, 1), (1, 0, 1), (1, 1, 2)])
    test = interactions([(0, 2, 9), (0, 3, 9), (1, 4, 9)])
    held_out = HeldOutUsers(known, test, 6)
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
    assert held_out.top(np.arange(12.0).reshape(2, 6))[0, :5].tolist() == [5, 4, 3, 2, 1], "item 0 was seen"
