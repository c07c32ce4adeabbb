"""How long something has lately taken, so that what can no longer be done in time is not begun.

Under overload a queue in order of arrival would else work on answers that come just too late, and on no other.
"""

from __future__ import annotations

import statistics
from collections import deque

TRUSTED_S = 1.0
"""So long nothing was done: what it takes now is not known any more, and the next is tried."""
_LEAST, _MOST = 3, 5
"""Times that make a median."""


class ServiceTime:
    """The median of the last times. From any thread."""

    def __init__(self) -> None:
        self._lately_s: deque[float] = deque(maxlen=_MOST)
        self._at = float("-inf")

    def took(self, began: float, ended: float) -> None:
        """Something was done between these times."""
        self._lately_s.append(ended - began)
        self._at = ended

    def needed_s(self, now: float) -> float:
        """Seconds that the next will probably take; 0 if that is not known."""
        lately_s = list(self._lately_s)
        known = len(lately_s) >= _LEAST and now - self._at <= TRUSTED_S
        return statistics.median(lately_s) if known else 0.0
