"""Whether the funnel is worth its stages: its NDCG@10 beside that of the best baseline, and the stage that loses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

METRIC = "ndcg@10"


class Verdict(NamedTuple):
    """The best baseline, and the ratio of the funnel's NDCG@10 to its."""

    baseline: str
    ratio: float
    stage: str = ""
    """The stage that loses against the baseline; empty: the funnel is at least as good."""
    reason: str = ""

    @property
    def beaten(self) -> bool:
        """Whether the baseline beats the funnel."""
        return bool(self.stage)

    def __str__(self) -> str:
        if not self.beaten:
            return f"NDCG@10 is {self.ratio:.3f} x that of the best baseline ({self.baseline})"
        return (
            f"A BASELINE WINS: {self.baseline} is better than the funnel, whose NDCG@10 is {self.ratio:.3f} x that of "
            f"the baseline. The stage that loses it: {self.stage} ({self.reason})"
        )


def judge(result: Mapping[str, Any]) -> Verdict | None:
    """The verdict on an evaluation table; None if it has no baselines."""
    if not (baselines := result.get("baselines")):
        return None
    name = max(baselines, key=lambda each: baselines[each][METRIC])
    best, funnel = baselines[name][METRIC], result["funnel"][METRIC]
    if funnel >= best:
        return Verdict(name, funnel / best if best else math.inf if funnel else 1.0)
    return Verdict(name, funnel / best, *_loses(result, best))


def _loses(result: Mapping[str, Any], best: float) -> tuple[str, str]:
    ceiling, scored = result["candidates"]["ceiling"], result["funnel, no diversity"][METRIC]
    retrieved, funnel = result["funnel, scoring lost"][METRIC], result["funnel"][METRIC]
    if ceiling < best:
        return "candidates", f"their ideal order has {ceiling:.4f}, the baseline {best:.4f}"
    if scored >= best:
        return "ranking", f"without diversity, cap and rules it is {scored:.4f}, the baseline {best:.4f}"
    if retrieved > funnel:
        return "scoring", f"without it NDCG@10 is {retrieved:.4f}, with it {funnel:.4f}"
    if scored - funnel > best - scored:
        return "ranking", f"without diversity, cap and rules it is {scored:.4f}, with them {funnel:.4f}"
    return "scoring", f"the ideal order of its candidates has {ceiling:.4f}, its own {scored:.4f}"
