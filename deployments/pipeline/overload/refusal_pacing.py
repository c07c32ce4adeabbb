"""When a refusal is written: at once up to a rate, later beyond it.

Clients that ask again as soon as they are refused would otherwise take all of the ingress' CPU
(benchmarks/NOTES.md). The generic cell rate algorithm (ITU-T I.371), which needs no queue.
"""

from __future__ import annotations

REFUSALS_PER_S, REFUSAL_BURST, LONGEST_DELAY_S = 500.0, 200, 0.5
"""Refusals a second that are written at once, and how many more in a burst. Further refusals follow at that rate,
delayed by at most LONGEST_DELAY_S: a longer delay keeps more connections open, and recovery from a stall takes longer.
"""


class RefusalPacer:
    """The refusals of one ingress replica."""

    def __init__(self, per_s: float = REFUSALS_PER_S, burst: int = REFUSAL_BURST) -> None:
        self._interval_s, self._burst_s = 1 / per_s, burst / per_s
        self._scheduled_until = float("-inf")

    def time_of_next(self, now: float) -> float:
        """When to write one more refusal, on the clock of `now`, in seconds; at once if that time has passed."""
        earliest = max(self._scheduled_until, now - self._burst_s)
        self._scheduled_until = min(earliest + self._interval_s, now + LONGEST_DELAY_S)
        return self._scheduled_until
