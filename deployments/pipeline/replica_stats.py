"""The counters that a replica reports to the autoscaling policy. They only grow, from the replica's start."""

from __future__ import annotations

import threading

from cluster.autoscaling.observations import Counters


class ReplicaStats:
    """Counters; several threads may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = Counters()._asdict()

    def add(self, **amounts: float) -> None:
        """Adds to the totals named."""
        with self._lock:
            for name, amount in amounts.items():
                self._totals[name] += amount

    def stats(self, queued: float, slots: int, max_batch: int, **shares: float) -> dict[str, float]:
        """For `record_autoscaling_stats`: Serve takes a flat dict of numbers. `queued`: requests that wait now;
        `shares`: `num_cpus` and `num_gpus` of this replica."""
        with self._lock:
            now = {"queued": float(queued), "slots": float(slots), "max_batch": float(max_batch)}
            return self._totals | now | shares
