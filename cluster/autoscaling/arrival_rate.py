"""Measures the arrival rate at the ingress: over windows, its dispersion, and whether it rises.

Differences of counters are spread over the time they span into bins of 0.25 s; a rate over a window is the mean of its
bins. Dispersion is the index of dispersion of counts, variance/mean (1: Poisson), from successive differences of
half-second counts without the largest quarter, so that a step or a ramp does not change it. (The smallest three
quarters of the squared differences of two normal variates have a mean of 0.3685 · 2 σ².)

A rise is detected in two ways: against the level before it, which is faster for a rise that has just begun, and as the
slope of a line through the latest bins, for a rise that continues.
"""

from __future__ import annotations

from itertools import pairwise
from math import floor, isfinite, log1p, sqrt
from typing import NamedTuple

BIN_S = 0.25
KEPT_S = 60.0
_BINS = int(KEPT_S / BIN_S)
WINDOWS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
ONSET_S, BEFORE_S = 4.0, 20.0
"""A rise that began at most ONSET_S ago is compared with the mean of BEFORE_S before it, or of all bins before it if
that mean is higher."""
_TRIMMED = 2 * 0.3685


class Trend(NamedTuple):
    """A straight line through the latest bins. `rate` at its end; `slope` in 1/s² is 0 unless it is significant."""

    rate: float
    slope: float


class ArrivalRate:
    """Counts per bin of the last `KEPT_S` seconds. `sigmas`: standard deviations of noise that a rise must exceed."""

    def __init__(self, sigmas: float = 4.1) -> None:
        self._sigmas = sigmas
        self._bins: list[float] = []
        self._first = 0
        """Number of the oldest bin; bin n spans [n·BIN_S, (n+1)·BIN_S)."""
        self._dispersion = 1.0
        self._measured, self._measured_at = 0, -1.0

    def add(self, start: float, end: float, count: float) -> None:
        """`count` requests arrived between the two times."""
        if not (isfinite(start) and isfinite(end) and isfinite(count)) or count < 0 or end <= start:
            return
        first, last = floor(start / BIN_S), floor((end - 1e-9) / BIN_S)
        self._extend(last)
        for number in range(max(first, self._first), last + 1):
            overlap = min(end, (number + 1) * BIN_S) - max(start, number * BIN_S)
            self._bins[number - self._first] += count * max(0.0, overlap) / (end - start)

    def rate(self, window_s: float, end: float) -> float:
        """Requests per second over the `window_s` before `end`, or over the part of it that has counts."""
        bins = self._before(end, window_s)
        return sum(bins) / (len(bins) * BIN_S) if bins else 0.0

    def level(self, end: float, slow_s: float = 10.0) -> float:
        """The rate to plan for: the mean of `slow_s`, or a shorter window's mean less its noise, if that is higher."""
        slow = self.rate(slow_s, end)
        level = slow
        for window_s in WINDOWS_S:
            if window_s >= slow_s:
                break
            rate = self.rate(window_s, end)
            noise = self._sigmas * sqrt(self.dispersion(end) * max(slow, 1.0) / window_s)
            level = max(level, rate - noise)
        return level

    def trend(self, end: float, windows_s: tuple[float, ...] = (2.0, 4.0, 8.0)) -> Trend:
        """The steepest rise that is significant against the measured dispersion: since an onset, or over one of the
        windows."""
        dispersion = self.dispersion(end)
        best = self._onset(end, dispersion) or Trend(self.level(end), 0.0)
        for window_s in windows_s:
            bins = self._before(end, window_s)
            n = len(bins)
            if n < window_s / BIN_S:
                continue
            mean, middle = sum(bins) / n, (n - 1) / 2
            spread = n * (n * n - 1) / 12
            slope = sum((i - middle) * (count - mean) for i, count in enumerate(bins)) / spread
            noise = sqrt(dispersion * max(self.rate(KEPT_S, end - window_s) * BIN_S, mean, 0.25) / spread)
            if slope > self._sigmas * noise:
                rise = Trend((mean + slope * (n - 1) / 2) / BIN_S, slope / BIN_S / BIN_S)
                if rise.slope > best.slope:
                    best = rise
        return best

    def _onset(self, end: float, dispersion: float) -> Trend | None:
        """The ramp that began at the likeliest moment of the last `ONSET_S`, if it is significant.

        Gain: log-likelihood of Poisson counts around the ramp over that around the level before it, divided by the
        dispersion (quasi-likelihood: McCullagh and Nelder, 1989, *Generalized Linear Models*, 9.2). A normal variate
        beyond `sigmas` is as rare as a gain beyond sigmas²/2 is at most.
        """
        bins = self._before(end, KEPT_S)
        longest, before = round(ONSET_S / BIN_S), round(BEFORE_S / BIN_S)
        best, length, found = dispersion * self._sigmas**2 / 2, 0, None
        total = sum(bins)
        for n in range(2, min(longest, len(bins) - before // 2) + 1):
            earlier, counts = bins[-n - before : -n], bins[-n:]
            risen = sum(counts)
            level = max(sum(earlier) / len(earlier), (total - risen) / (len(bins) - n), 0.01)
            slope = 2 * (risen - level * n) / (n * n)
            if slope <= 0:
                continue
            gain = sum(count * log1p(slope * (i + 0.5) / level) for i, count in enumerate(counts)) - slope * n * n / 2
            if gain > best:
                best, length, found = gain, n, Trend((level + slope * n) / BIN_S, slope / BIN_S / BIN_S)
        return found if length < longest else None  # for a longer rise this slope is too steep

    def dispersion(self, end: float) -> float:
        """Variance/mean of half-second counts, at least 1. Measured once a second: the mean of all measurements at
        first, later smoothed over a minute."""
        if 0 <= end - self._measured_at < 1.0:
            return max(1.0, self._dispersion)
        bins = self._before(end, KEPT_S)
        halves = [bins[i] + bins[i + 1] for i in range(len(bins) % 2, len(bins) - 1, 2)]
        if len(halves) >= 10 and (mean := sum(halves) / len(halves)) > 0:
            squares = sorted((later - earlier) ** 2 for earlier, later in pairwise(halves))
            trimmed = squares[: 3 * len(squares) // 4]
            measured = min(1000.0, sum(trimmed) / len(trimmed) / _TRIMMED / max(mean, 1.0))
            self._measured += 1
            self._dispersion += max(0.02, 1 / self._measured) * (measured - self._dispersion)
            self._measured_at = end
        return max(1.0, self._dispersion)

    def _extend(self, number: int) -> None:
        """Adds empty bins up to `number`, and drops the oldest."""
        if not self._bins or number - self._first > 2 * _BINS:
            self._bins, self._first = [0.0], number
        while self._first + len(self._bins) <= number:
            self._bins.append(0.0)
        if len(self._bins) > 2 * _BINS:
            spare = len(self._bins) - _BINS
            del self._bins[:spare]
            self._first += spare

    def _before(self, end: float, window_s: float) -> list[float]:
        """The whole bins of the window before `end`, oldest first."""
        if not isfinite(end):
            return []
        stop = min(floor(end / BIN_S + 1e-6) - self._first, len(self._bins))
        return self._bins[max(0, stop - round(window_s / BIN_S)) : stop] if stop > 0 else []
