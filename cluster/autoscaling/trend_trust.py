"""Whether rises of the rate go on as their trend foretells: forecasts are held against what came, and trusted by it.

Load that jumps and stays reads as a steep ramp for a second or two. One forecast of that kind costs little beside what
it saves in a flash crowd; jump after jump it must be learned from.
"""

from __future__ import annotations


class TrendTrust:
    """`doubt`: weight of the latest forecast in the trust; 0: all are trusted. One forecast is followed at a time."""

    def __init__(self, doubt: float) -> None:
        self._doubt = doubt
        self._open: tuple[float, float, float] | None = None
        self.trust = 1.0
        """Share of the foretold growth that came, in the mean of the forecasts so far; the first are believed."""

    def update(self, now: float, level: float, rate: float, growth: float, lead_s: float) -> float:
        """The trust. `level`: the rate now; `rate` and `growth`: a trend says that from `rate` on so many requests/s
        will be added within `lead_s`; 0: it says nothing."""
        if self._open is not None and now >= self._open[0]:
            _, began, foretold = self._open
            came = min(1.0, max(0.0, (level - began) / foretold))
            self.trust += self._doubt * (came - self.trust)
            self._open = None
        if self._open is None and growth > 0 and lead_s > 0:
            self._open = now + lead_s, rate, growth
        return self.trust
