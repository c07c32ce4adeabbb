"""Service time of a stage as a line in its batch size, s(b) = a + c·b, learned while it serves.

Least squares over (mean batch, mean seconds) of each report interval, weighted by its batches, with exponential
forgetting. The prior counts as `trust` batches, so that a stage whose batches all have one size keeps the prior's split
between a and c. A residual counts at most `CLIP` times the usual one (Huber, 1964, *Robust Estimation
of a Location Parameter*), so that a stall does not move the line.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite

CLIP = 3.0

_MAX_VALID = 1e6
"""Largest valid number of requests per batch, and of its seconds; the square of a larger one might not be finite."""


@dataclass(frozen=True, slots=True)
class Line:
    """s(b) = a + c·b. `a`: seconds per batch; `c`: seconds per request in it."""

    a: float
    c: float

    def seconds(self, batch: float) -> float:
        """Seconds that a batch takes."""
        return self.a + self.c * batch

    def throughput(self, batch: float) -> float:
        """Requests per second of one slot that computes batches of this size back to back."""
        return batch / max(1e-9, self.seconds(batch))

    def largest_batch(self, seconds: float, most: int) -> int:
        """The largest batch that takes at most `seconds`; at least 1 and at most `most`."""
        if self.c <= 0:
            return most
        return max(1, min(most, int((seconds - self.a) / self.c)))


class LatencyModel:
    """The line of one stage. `forget_s`: age at which an interval counts 1/e."""

    def __init__(self, prior: Line, batch: float = 16.0, forget_s: float = 120.0, trust: float = 20.0) -> None:
        self._prior = prior
        self._forget_s = forget_s
        # The prior as batches of two sizes, small and large, on its line.
        self._prior_batches = [(1.0, trust / 2), (max(2.0, batch), trust / 2)]
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._typical = max(1e-6, 0.25 * prior.seconds(batch))
        self.line = prior

    def add(self, batches: float, items: float, busy_s: float, elapsed_s: float) -> None:
        """The stage has computed `batches` of `items` requests together in `busy_s`, within the last `elapsed_s`."""
        if not all(map(isfinite, (batches, items, busy_s, elapsed_s))) or elapsed_s < 0:
            return
        keep = exp(-elapsed_s / self._forget_s)
        self._weight, self._x, self._y = self._weight * keep, self._x * keep, self._y * keep
        self._xx, self._xy = self._xx * keep, self._xy * keep
        if batches < 1 or items < batches or busy_s <= 0:
            return
        x, y, weight = items / batches, busy_s / batches, min(batches, 200.0)
        if max(x, y) > _MAX_VALID:
            return
        residual = y - self.line.seconds(x)
        clipped = max(-CLIP * self._typical, min(CLIP * self._typical, residual))
        self._typical = max(1e-6, 0.95 * self._typical + 0.05 * min(abs(residual), 4 * self._typical))
        y = self.line.seconds(x) + clipped
        self._weight += weight
        self._x += weight * x
        self._y += weight * y
        self._xx += weight * x * x
        self._xy += weight * x * y
        self.line = self._fit()

    def _fit(self) -> Line:
        n, x, y, xx, xy = self._weight, self._x, self._y, self._xx, self._xy
        for size, weight in self._prior_batches:
            seconds = self._prior.seconds(size)
            n, x, y = n + weight, x + weight * size, y + weight * seconds
            xx, xy = xx + weight * size * size, xy + weight * size * seconds
        spread = xx * n - x * x
        c = (xy * n - x * y) / spread if spread > 1e-12 else self._prior.c
        a = (y - c * x) / n
        if c < 0:
            return Line(max(0.0, y / n), 0.0)
        if a < 0:
            return Line(0.0, xy / xx)
        return Line(a, c)
