"""Follows the replicas that were requested: how long they take to start, and whether the cluster has room for them.

If requested replicas are not ready after `expiry_s`, the cluster has no room. The stage is then limited to the replicas
it has, and tries one more from time to time.
"""

from __future__ import annotations

from collections import deque
from math import ceil


class Provisioning:
    """Of one stage. `startup_s`: the first guess; `retry_s`: seconds between attempts while there is no room."""

    def __init__(self, startup_s: float, expiry_s: float, retry_s: float = 30.0) -> None:
        self._first_guess = startup_s
        self._expiry_s, self._retry_s = expiry_s, retry_s
        self._pending: deque[tuple[float, int]] = deque()
        """(time of the request, replica count) of every replica that is not yet ready."""
        self._startups_s: deque[float] = deque(maxlen=50)
        self._progress_at = 0.0
        self._ready = 0
        self._tried_at = 0.0
        self.room: int | None = None
        """The most replicas that the cluster has room for; None: no limit was met."""

    @property
    def startup_s(self) -> float:
        """90th percentile of the latest start-up times, request to ready; with fewer than three, at least the guess."""
        if len(self._startups_s) < 3:
            return max([self._first_guess, *self._startups_s])
        ordered = sorted(self._startups_s)
        return ordered[ceil(0.9 * len(ordered)) - 1]

    def limit(self, now: float, ready: int, wanted: int) -> int:
        """`wanted`, or fewer if the cluster has no room for so many."""
        if ready > self._ready or not self._pending:
            self._progress_at = now
        self._ready = ready
        while self._pending and ready >= self._pending[0][1]:
            requested_at, _ = self._pending.popleft()
            self._startups_s.append(min(now - requested_at, self._expiry_s))
        if self.room is not None and ready > self.room:
            self.room = None  # a node joined
        timeout_s = max(self._expiry_s, 3 * self.startup_s)
        if self._pending and now - max(self._progress_at, self._pending[0][0]) > timeout_s and self.room is None:
            self.room, self._tried_at = ready, now
            self._pending.clear()
        if self.room is not None:
            if now - self._tried_at > self._retry_s + timeout_s:
                self._tried_at = now
            trying = now - self._tried_at > self._retry_s
            wanted = min(wanted, max(self.room, ready) + (1 if trying else 0))
        return wanted

    def requested(self, now: float, target: int) -> None:
        """Notes the target that was decided."""
        while self._pending and self._pending[-1][1] > target:
            requested_at, _ = self._pending.pop()
            if now - requested_at > self.startup_s and self.room is None:  # it would have taken at least so long
                self._startups_s.append(min(now - requested_at, self._expiry_s))
        for count in range(max(self._ready, self._pending[-1][1] if self._pending else 0) + 1, target + 1):
            self._pending.append((now, count))
