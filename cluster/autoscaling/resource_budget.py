"""Divides the CPUs and GPUs among the stages when they do not suffice for the replicas that all stages need.

Water-filling: every stage gets its minimum, then the same fraction of its further need, the largest that fits. What
rounding leaves over goes to the stage that has the smallest share of its need.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.autoscaling.capacity import StageSpec

_EPS = 1e-9


def resources(replicas: Mapping[str, int], specs: Mapping[str, StageSpec]) -> tuple[float, float]:
    """(CPUs, GPUs) of so many replicas per stage."""
    return (
        sum(count * specs[name].num_cpus for name, count in replicas.items()),
        sum(count * specs[name].num_gpus for name, count in replicas.items()),
    )


def fit_to_budget(
    wanted: Mapping[str, int], specs: Mapping[str, StageSpec], cpus: float, gpus: float
) -> dict[str, int]:
    """`wanted` where it fits into `cpus` and `gpus` (infinite: no limit), else fewer, never under the minimum."""

    def fits(replicas: Mapping[str, int]) -> bool:
        used_cpus, used_gpus = resources(replicas, specs)
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
    granted = filled(low)
    while True:
        short = sorted((granted[name] / wanted[name], name) for name in granted if granted[name] < wanted[name])
        for _, name in short:
            if fits({**granted, name: granted[name] + 1}):
                granted[name] += 1
                break
        else:
            return granted
