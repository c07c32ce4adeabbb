"""What becomes of replicas that were asked for: how long they take to start, and whether the cluster can place them.

A request for replicas that is not met for `expiry_s` means that there is no room. The stage then asks for no more than
it has, says so, and tries one more now and then.
"""

from __future__ import annotations

from collections import deque
from math import ceil


class Placement:
    """Watches one stage. `startup_s`: the first guess; `retry_s`: seconds between attempts once there is no room."""

    def __init__(self, startup_s: float, expiry_s: float, retry_s: float = 30.0) -> None:
        self._first_guess = startup_s
        self._expiry_s, self._retry_s = expiry_s, retry_s
        self._asked: deque[tuple[float, int]] = deque()
        self._took: deque[float] = deque(maxlen=50)
        self._progress_at = 0.0
        self._ready = 0
        self._tried_at = 0.0
        self.room: int | None = None
        """The most replicas the cluster can hold, once it was found; None: no limit was met."""

    @property
    def startup_s(self) -> float:
        """90th percentile of the latest start-up times, request to ready; the first guess until three were seen."""
        if len(self._took) < 3:
            return max([self._first_guess, *self._took])
        ordered = sorted(self._took)
        return ordered[ceil(0.9 * len(ordered)) - 1]

    def limit(self, now: float, ready: int, wanted: int) -> int:
        """`wanted`, or less if the cluster has shown that it can't place so many."""
        if ready > self._ready or not self._asked:
            self._progress_at = now
        self._ready = ready
        while self._asked and ready >= self._asked[0][1]:
            asked_at, _ = self._asked.popleft()
            self._took.append(min(now - asked_at, self._expiry_s))
        if self.room is not None and ready > self.room:
            self.room = None  # a node joined
        patience_s = max(self._expiry_s, 3 * self.startup_s)
        if self._asked and now - max(self._progress_at, self._asked[0][0]) > patience_s and self.room is None:
            self.room, self._tried_at = ready, now
            self._asked.clear()
        if self.room is not None:
            if now - self._tried_at > self._retry_s + patience_s:
                self._tried_at = now
            trying = now - self._tried_at > self._retry_s
            wanted = min(wanted, max(self.room, ready) + (1 if trying else 0))
        return wanted

    def asked(self, now: float, target: int) -> None:
        """The target that was decided."""
        while self._asked and self._asked[-1][1] > target:
            asked_at, _ = self._asked.pop()
            if now - asked_at > self.startup_s and self.room is None:  # withdrawn unready: it takes at least so long
                self._took.append(min(now - asked_at, self._expiry_s))
        for count in range(max(self._ready, self._asked[-1][1] if self._asked else 0) + 1, target + 1):
            self._asked.append((now, count))
