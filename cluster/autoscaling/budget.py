"""Joint capacity: when the cluster's CPUs or GPUs cannot hold what all stages want, they share by need.

Water-filling: every stage gets its minimum, then the same fraction of its further need, the largest that fits; what
rounding leaves over goes to the stage that is shortest of its need.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.autoscaling.capacity import StageSpec

_EPS = 1e-9


def cost(replicas: Mapping[str, int], specs: Mapping[str, StageSpec]) -> tuple[float, float]:
    """(CPUs, GPUs) that they take."""
    return (
        sum(count * specs[name].num_cpus for name, count in replicas.items()),
        sum(count * specs[name].num_gpus for name, count in replicas.items()),
    )


def share(wanted: Mapping[str, int], specs: Mapping[str, StageSpec], cpus: float, gpus: float) -> dict[str, int]:
    """`wanted` where it fits into `cpus` and `gpus` (infinite: no limit), else less, never under the minimum."""

    def fits(replicas: Mapping[str, int]) -> bool:
        used_cpus, used_gpus = cost(replicas, specs)
        return used_cpus <= cpus + _EPS and used_gpus <= gpus + _EPS

    if fits(wanted):
        return dict(wanted)
    least = {name: min(count, specs[name].min_replicas) for name, count in wanted.items()}
    if not fits(least):
        return least

    def filled(fraction: float) -> dict[str, int]:
        return {name: low + int(fraction * (wanted[name] - low) + _EPS) for name, low in least.items()}

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(filled(middle)) else (low, middle)
    given = filled(low)
    while True:
        short = sorted((given[name] / wanted[name], name) for name in given if given[name] < wanted[name])
        for _, name in short:
            if fits({**given, name: given[name] + 1}):
                given[name] += 1
                break
        else:
            return given
