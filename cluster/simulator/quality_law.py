"""The quality factor as the simulator has it: the ingress keeps it per batch, the simulator per step.

The functions are compiled into the simulator's loop, whose cache does not notice a change here: touch simulator.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit


@dataclass(frozen=True, slots=True)
class QualityLaw:
    """When quality is given up, as in the live config. `cut`: stages that see fewer candidates; `skipped`: those left
    out below `floor`."""

    from_wait: float = 0.4
    to_wait: float = 0.8
    floor: float = 0.2
    recovery_per_s: float = 0.5
    cut: frozenset[str] = frozenset({"scoring", "ranking"})
    skipped: frozenset[str] = frozenset({"scoring"})

    def __post_init__(self) -> None:
        if not self.from_wait < self.to_wait:
            raise ValueError(f"to_wait = {self.to_wait} must be greater than from_wait = {self.from_wait}")
        if not self.recovery_per_s > 0:
            raise ValueError(f"recovery_per_s = {self.recovery_per_s} must be greater than 0")


def numbers(quality: QualityLaw | None) -> Any:
    """What the compiled functions take as `law`: all zero if there is none."""
    if quality is None:
        return np.zeros(4)
    return np.array([quality.from_wait, quality.to_wait, quality.floor, quality.recovery_per_s])


@njit(cache=True)
def fitting(law: Any, share: float) -> Any:
    """The factor for requests that have waited this share of their time."""
    return min(1.0, max(0.0, (law[1] - share) / (law[1] - law[0])))


@njit(cache=True)
def share_of_work(law: Any, factor: float, cut: bool, skipped: bool) -> Any:
    """What a stage's work per request shrinks to. Below the floor what is not skipped gets every candidate again."""
    if factor >= law[2]:
        return factor if cut else 1.0
    return 0.0 if skipped else 1.0


@njit(cache=True)
def ahead_s(law: Any, factor: float, first: int, line: Any, max_batch: Any, cut: Any, skipped: Any) -> float:
    """What full batches take from stage `first` on; at 0 the fallback answers, in no time."""
    seconds = 0.0
    if factor > 0:
        for s in range(first, len(max_batch)):
            share = share_of_work(law, factor, cut[s], skipped[s])
            if share > 0:
                seconds += line[s, 0] + line[s, 1] * max_batch[s] * share
    return seconds
