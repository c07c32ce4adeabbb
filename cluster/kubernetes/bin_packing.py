"""Whether the replicas of the funnel fit on the workers of a cluster: the largest first, each on the first with room.

Ray places them one by one as well and never moves one, so what does not fit here will hardly fit there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Replicas:
    """`count` equal replicas of a deployment. `where`: the key of the configuration that describes them; `num_gpus`: a
    fraction of one GPU, or so many whole ones; `most`: how many the autoscaling policy may ask for."""

    name: str
    where: str
    num_cpus: float
    num_gpus: float
    count: int
    most: int


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker offers."""

    cpus: int
    gpus: int = 0


@dataclass(slots=True)
class _Room:
    """What is left of a worker."""

    cpus: float
    gpus: list[float] = field(default_factory=list)

    def take(self, cpus: float, gpus: float) -> bool:
        """Takes the shares of one replica, if they are there."""
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
    """The first of `replicas` that finds no room for all of its count on so many equal workers; None: all fit."""
    rooms = [_Room(worker.cpus, [1.0] * worker.gpus) for _ in range(workers)]
    for one in sorted(replicas, key=lambda r: (r.num_gpus, r.num_cpus), reverse=True):
        for _ in range(one.count):
            if not any(room.take(one.num_cpus, one.num_gpus) for room in rooms):
                return one
    return None


def doubled(replicas: Iterable[Replicas]) -> list[Replicas]:
    """What runs while a redeploy has started the new replicas and not yet stopped the old ones."""
    return [replace(one, count=2 * one.count) for one in replicas]


def at_most(replicas: Iterable[Replicas]) -> list[Replicas]:
    """What runs when every stage is at its upper bound."""
    return [replace(one, count=max(one.count, one.most)) for one in replicas]
