"""Decides how far a rising trend of the rate is trusted: the mean share of the forecast growth that came true.

Load that jumps once and stays looks like a steep ramp for a second or two. One wrong forecast costs little compared
with what a right one saves in a flash crowd; repeated wrong forecasts lower the trust.
"""

from __future__ import annotations


class TrendTrust:
    """`doubt`: weight of the latest forecast in the trust; 0: all are trusted. One forecast is followed at a time."""

    def __init__(self, doubt: float) -> None:
        self._doubt = doubt
        self._open: tuple[float, float, float] | None = None
        """The forecast that is followed: when it ends, the rate from which it starts, its growth."""
        self.trust = 1.0
        """Mean share of the forecast growth that came true; the first forecasts are trusted."""

    def update(self, now: float, level: float, rate: float, growth: float, lead_s: float) -> float:
        """The trust. `level`: the rate now; `rate`, `growth`: a trend forecasts so many more requests/s than `rate`
        within `lead_s`; growth 0: no forecast."""
        if self._open is not None and now >= self._open[0]:
            _, start, forecast = self._open
            share = min(1.0, max(0.0, (level - start) / forecast))
            self.trust += self._doubt * (share - self.trust)
            self._open = None
        if self._open is None and growth > 0 and lead_s > 0:
            self._open = now + lead_s, rate, growth
        return self.trust
