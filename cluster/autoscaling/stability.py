"""When to follow a recommendation: up at once, down slowly.

Panic (the idea of Knative's pod autoscaler): when what is wanted is twice what is ready, nothing shrinks until a panic
window has passed without that. Otherwise a stage shrinks to the highest recommendation of a stable window, past a dead
band. What a trend adds counts for seconds only, or for as long as a replica takes to start: a forecast must not hold
replicas for minutes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cluster.autoscaling.capacity import whole

STARTUPS = 1.5
"""What passes is wanted for at least so many start-ups: a replica that is withdrawn before it is ready was a waste, and
nobody learned how long it takes."""


class Highest:
    """The maximum over a sliding window: values in falling order, as a later and higher one makes an older useless."""

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
    """Seconds and ratios of the rules above. `dead_band`: a change of the need by a smaller share moves nothing."""

    stable_s: float = 300.0
    panic_s: float = 30.0
    panic_ratio: float = 2.0
    forecast_s: float = 10.0
    dead_band: float = 0.1


class Stability:
    """Turns the recommendations for one stage into its target."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows
        self._lasting, self._brief = Highest(windows.stable_s), Highest(windows.forecast_s)
        self._panic_until = float("-inf")
        self._fresh = True

    def target(
        self,
        now: float,
        current: int,
        ready: int,
        lasting: float,
        brief: float,
        least: int = 1,
        startup_s: float = 0.0,
    ) -> tuple[int, str]:
        """(replicas, why). `current`: the target so far; `lasting`: what the rate asks for, not rounded; `brief`: with
        the trend and the queue, which pass; `least`: never fewer; `startup_s`: how long a replica takes to start.

        Half of the dead band lies on either side: a need that hovers about a whole number moves nothing.
        """
        half = self._windows.dead_band / 2
        wanted = max(least, whole(max(lasting, brief) * (1 - half)))
        if self._fresh:  # a controller that has just started knows no past: what is there was wanted
            self._fresh = False
            self._lasting.add(now, current)
        held = self._lasting.add(now, max(least, whole(lasting * (1 + half))))
        passing = self._brief.add(now, wanted, STARTUPS * startup_s)
        if wanted >= max(2, self._windows.panic_ratio * max(1, ready)):
            self._panic_until = now + self._windows.panic_s
        if wanted > current:
            if now < self._panic_until:
                return wanted, "panic"
            return wanted, "rising" if brief > lasting else "rate"
        floor = max(held, passing)
        if floor >= current:
            return current, "holds" if current else "idle"
        if now < self._panic_until:  # what is ready stays; what a forecast asked for in vain may go
            return max(floor, min(current, ready)), "panic holds"
        return floor, "stable window" if floor else "idle"
