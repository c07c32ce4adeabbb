"""The result of a simulated run, and what is computed from it: misses, cost, direction changes, recovery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cluster.simulator.funnel import TICK_S
from cluster.simulator.traces import Floats


@dataclass(frozen=True)
class Run:
    """Per tick: `ready` and `billed` replicas [tick, stage]; requests in the `queue`, and those that arrived, were
    missed or shed [tick]. Missed includes shed. `p99_s`: of the answered requests. Ticks before `from_tick` are a
    warm-up and count for nothing."""

    stages: tuple[str, ...]
    ready: Floats
    billed: Floats
    queue: Floats
    arrived: Floats
    missed: Floats
    shed: Floats
    p99_s: float
    from_tick: int

    @property
    def miss_share(self) -> float:
        """Share of the requests not answered within the objective, shed ones included."""
        return self._share(self.missed)

    @property
    def shed_share(self) -> float:
        """Share of the requests refused at once."""
        return self._share(self.shed)

    def _share(self, requests: Floats) -> float:
        return float(requests[self.from_tick :].sum() / max(1.0, self.arrived[self.from_tick :].sum()))

    @property
    def replica_seconds(self) -> float:
        """Of all stages, from the request for a replica to its exit."""
        return float(self.billed[self.from_tick :].sum() * TICK_S)

    @property
    def turns_per_hour(self) -> float:
        """How often the replica count of the least steady stage changes direction, per hour."""
        hours = (len(self.billed) - self.from_tick) * TICK_S / 3600
        turns = 0
        for column in self.billed[self.from_tick :].T:
            moves = np.sign(np.diff(column))
            moves = moves[moves != 0]
            turns = max(turns, int((moves[1:] != moves[:-1]).sum()))
        return turns / hours

    def recovery_s(self, onset_s: float) -> float:
        """Seconds from `onset_s` to the end of the last tick that misses more than 1 %; 0 if there is none."""
        bad = np.nonzero(self.missed > 0.01 * np.maximum(self.arrived, 1))[0] * TICK_S
        bad = bad[bad >= onset_s]
        return float(bad.max() - onset_s + TICK_S) if len(bad) else 0.0
