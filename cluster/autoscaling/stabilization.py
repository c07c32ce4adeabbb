"""Decides when a stage follows the number of replicas it needs: up at once, down slowly.

Panic (the idea of Knative's pod autoscaler): once the need is twice the ready replicas, nothing shrinks until a panic
window has passed without such a need. Otherwise a stage shrinks to the highest need of a stable window, past a dead
band. The part of the need that comes from the trend or the queue counts for seconds only, or for as long as a replica
takes to start: a wrong forecast must not keep replicas for minutes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cluster.autoscaling.capacity import round_up

STARTUPS = 1.5
"""A peak counts for at least so many start-up times: a replica that is withdrawn before it is ready is a waste, and its
start-up time is not measured."""


class SlidingMax:
    """The maximum over a sliding window. Values are kept in falling order: a later, higher value replaces the lower."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._values: deque[tuple[float, int]] = deque()

    def add(self, now: float, value: int, longer_s: float = 0.0) -> int:
        """The highest value of the last `window_s`, or of `longer_s` if that is longer, this one included."""
        while self._values and self._values[-1][1] <= value:
            self._values.pop()
        self._values.append((now, value))
        while self._values[0][0] < now - max(self._window_s, longer_s):
            self._values.popleft()
        return self._values[0][1]


@dataclass(frozen=True, slots=True)
class Windows:
    """Seconds and ratios of the rules above. `dead_band`: a smaller change of the need, as a share of it, changes no
    target."""

    stable_s: float = 300.0
    panic_s: float = 30.0
    panic_ratio: float = 2.0
    forecast_s: float = 10.0
    dead_band: float = 0.1


class Stabilizer:
    """Turns the needs of one stage into its target."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._steady, self._peak = SlidingMax(windows.stable_s), SlidingMax(windows.forecast_s)
        self._panic_until = float("-inf")
        self._first = True

    def target(
        self,
        now: float,
        current: int,
        ready: int,
        steady: float,
        peak: float,
        least: int = 1,
        startup_s: float = 0.0,
    ) -> tuple[int, str]:
        """(replicas, reason). `current`: the target so far; `steady`: replicas that the rate needs, not rounded;
        `peak`: with the trend and the queue, which pass; `least`: the minimum; `startup_s`: a replica's start-up time.

        Half of the dead band lies on either side, so that a need close to a whole number does not oscillate.
        """
        half = self._windows.dead_band / 2
        wanted = max(least, round_up(max(steady, peak) * (1 - half)))
        if self._first:  # a controller that has just started has no history: take the current target as needed
            self._first = False
            self._steady.add(now, current)
        steady_max = self._steady.add(now, max(least, round_up(steady * (1 + half))))
        peak_max = self._peak.add(now, wanted, STARTUPS * startup_s)
        if wanted >= max(2, self._windows.panic_ratio * max(1, ready)):
            self._panic_until = now + self._windows.panic_s
        if wanted > current:
            if now < self._panic_until:
                return wanted, "panic"
            return wanted, "rising" if peak > steady else "rate"
        floor = max(steady_max, peak_max)
        if floor >= current:
            return current, "holds" if current else "idle"
        if now < self._panic_until:  # ready replicas stay; those that are still to start for a wrong forecast may go
            return max(floor, min(current, ready)), "panic holds"
        return floor, "stable window" if floor else "idle"
