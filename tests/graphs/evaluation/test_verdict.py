"""The verdict names the baseline that wins, and the stage that loses against it."""

from __future__ import annotations

from typing import Any

import pytest

from graphs.evaluation.verdict import judge


def result(funnel: float, scored: float, retrieved: float, ceiling: float, best: float = 0.2) -> dict[str, Any]:
    metrics = {"funnel": funnel, "funnel, no diversity": scored, "funnel, scoring lost": retrieved}
    return {
        **{name: {"ndcg@10": value} for name, value in metrics.items()},
        "candidates": {"ceiling": ceiling},
        "baselines": {"popularity": {"ndcg@10": 0.1 * best}, "ease": {"ndcg@10": best}},
    }


@pytest.mark.parametrize(
    ("figures", "stage"),
    [
        ((0.10, 0.11, 0.09, 0.19), "candidates"),
        ((0.10, 0.21, 0.09, 0.60), "ranking"),
        ((0.10, 0.11, 0.15, 0.60), "scoring"),
        ((0.05, 0.19, 0.01, 0.60), "ranking"),
        ((0.15, 0.16, 0.12, 0.60), "scoring"),
    ],
)
def test_the_stage_that_loses_is_named(figures: tuple[float, float, float, float], stage: str) -> None:
    verdict = judge(result(*figures))
    assert verdict is not None
    assert (verdict.baseline, verdict.beaten, verdict.stage) == ("ease", True, stage)
    assert f"{verdict}".startswith("A BASELINE WINS: ease is better than the funnel")
    assert f"The stage that loses it: {stage} (" in f"{verdict}"


def test_a_funnel_that_is_no_worse_wins() -> None:
    verdict = judge(result(0.2, 0.2, 0.2, 0.6))
    assert verdict is not None
    assert not verdict.beaten
    assert f"{verdict}" == "NDCG@10 is 1.000 x that of the best baseline (ease)"


@pytest.mark.parametrize(("funnel", "ratio"), [(0.0, 1.0), (0.1, float("inf"))])
def test_baselines_that_find_nothing_beat_nobody(funnel: float, ratio: float) -> None:
    verdict = judge(result(funnel, funnel, funnel, 0.5, best=0.0))
    assert verdict is not None
    assert (verdict.beaten, verdict.ratio) == (False, ratio)


def test_without_baselines_there_is_no_verdict() -> None:
    assert judge(result(0.1, 0.1, 0.1, 0.1) | {"baselines": {}}) is None
