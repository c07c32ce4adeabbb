"""The replicas of one simulated stage: those that are ready and those that start."""

from __future__ import annotations

import numpy as np

from cluster.simulator.funnel import SimulatedFunnel


class ReplicaPool:
    """`ready`: replicas that compute; `target`: the policy's latest; `billed`: ready ones and those that start."""

    def __init__(self, ready: int) -> None:
        self.ready = self.target = ready
        self._ready_at: list[float] = []

    @property
    def billed(self) -> int:
        """Replicas paid for."""
        return self.ready + len(self._ready_at)

    def scale(self, now: float, target: int, placeable: int, funnel: SimulatedFunnel, rng: np.random.Generator) -> None:
        """Replicas whose start-up is over become ready; then replicas are started, or dropped, the youngest first."""
        self.ready += sum(at <= now for at in self._ready_at)
        self._ready_at = [at for at in self._ready_at if at > now]
        self.target = target
        placed = min(target, placeable)
        while self.billed > placed and self._ready_at:
            self._ready_at.pop()
        self.ready = min(self.ready, placed)
        for _ in range(placed - self.billed):
            self._ready_at.append(now + funnel.startup_s * float(np.exp(rng.normal(0, funnel.startup_spread))))
