"""How long a piece of work has lately taken, so that work that can't end before its deadline is not started."""

from __future__ import annotations

import statistics
from collections import deque

VALID_S = 1.0
"""An estimate is used for so long after the last piece of work; then the next one is tried."""
_FEWEST, _MOST = 3, 5
"""Durations that make a median."""


class ServiceTime:
    """The median of the latest durations."""

    def __init__(self) -> None:
        self._durations_s: deque[float] = deque(maxlen=_MOST)
        self._ended = float("-inf")

    def observe(self, began: float, ended: float) -> None:
        """A piece of work ran from `began` to `ended`, in seconds on any one clock."""
        self._durations_s.append(ended - began)
        self._ended = ended

    def expected_s(self, now: float) -> float:
        """Seconds that the next piece of work will probably take; 0 if that is not known."""
        durations_s = list(self._durations_s)
        known = len(durations_s) >= _FEWEST and now - self._ended <= VALID_S
        return statistics.median(durations_s) if known else 0.0
