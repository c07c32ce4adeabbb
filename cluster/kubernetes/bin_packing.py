"""Checks whether the replicas of the funnel fit on the workers of a cluster: first fit, the largest replica first.

Ray places replicas one by one as well, and never moves one: replicas that do not fit here will hardly fit there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Replicas:
    """`count` equal replicas of a deployment. `where`: their key in the configuration; `num_gpus`: a fraction of one
    GPU, or whole GPUs; `most`: the autoscaling policy's upper bound."""

    name: str
    where: str
    num_cpus: float
    num_gpus: float
    count: int
    most: int


@dataclass(frozen=True, slots=True)
class Worker:
    """Resources of a worker."""

    cpus: int
    gpus: int = 0


@dataclass(slots=True)
class _FreeResources:
    """Free resources of a worker."""

    cpus: float
    gpus: list[float] = field(default_factory=list)

    def take(self, cpus: float, gpus: float) -> bool:
        """Takes the resources of one replica; False: there are too few."""
        if cpus > self.cpus + _ROUNDING:
            return False
        whole = gpus >= 1
        share = 1.0 if whole else gpus
        free = [n for n, left in enumerate(self.gpus) if left >= share - _ROUNDING] if gpus else []
        wanted = int(gpus) if whole else int(gpus > 0)
        if len(free) < wanted:
            return False
        for n in free[:wanted]:
            self.gpus[n] -= share
        self.cpus -= cpus
        return True


def without_room(replicas: Sequence[Replicas], worker: Worker, workers: int) -> Replicas | None:
    """The first deployment whose replicas do not all fit on `workers` equal workers; None: all fit."""
    free = [_FreeResources(worker.cpus, [1.0] * worker.gpus) for _ in range(workers)]
    for deployment in sorted(replicas, key=lambda r: (r.num_gpus, r.num_cpus), reverse=True):
        for _ in range(deployment.count):
            if not any(one_worker.take(deployment.num_cpus, deployment.num_gpus) for one_worker in free):
                return deployment
    return None


def doubled(replicas: Iterable[Replicas]) -> list[Replicas]:
    """The replicas during a redeploy, which starts the new ones before it stops the old ones."""
    return [replace(one, count=2 * one.count) for one in replicas]


def at_most(replicas: Iterable[Replicas]) -> list[Replicas]:
    """The replicas when every stage is at its upper bound."""
    return [replace(one, count=max(one.count, one.most)) for one in replicas]
