"""The baselines that the funnel is measured against."""

from __future__ import annotations

import numpy as np

from graphs.evaluation import baselines
from tests.support.interactions import interactions


def test_the_popularity_baseline_is_a_count_of_weighted_successes() -> None:
    some = interactions([(0, 1, 0.0), (1, 1, 0.0), (1, 2, 0.0)], weight=0.8)
    scores = baselines.scores("popularity", some, 3, np.array([0, 1]))
    np.testing.assert_allclose(scores, [[0, 1.6, 0.8]] * 2, rtol=1e-6)
