"""What is simulated: the stages, their true service times, start-up, queue bound and quality law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.autoscaling.capacity import StageSpec
from cluster.autoscaling.latency_model import Line

STEPS_PER_SLO = 50
TICK_S = 0.5
"""Seconds between two decisions of the policy; its reports are one tick old."""


@dataclass(frozen=True, slots=True)
class QualityLaw:
    """Parameters of cluster/quality_law.py, with the names and defaults of the live `QualityConfig`. `cut`: stages that
    get fewer candidates; `skipped`: those left out below `floor`."""

    from_wait: float = 0.4
    to_wait: float = 0.8
    floor: float = 0.2
    recovery_per_s: float = 0.5
    cut: frozenset[str] = frozenset({"scoring", "ranking"})
    skipped: frozenset[str] = frozenset({"scoring"})

    def __post_init__(self) -> None:
        if not self.from_wait < self.to_wait:
            raise ValueError(f"to_wait = {self.to_wait} must be greater than from_wait = {self.from_wait}")
        if not self.recovery_per_s > 0:
            raise ValueError(f"recovery_per_s = {self.recovery_per_s} must be greater than 0")


@dataclass(frozen=True, slots=True)
class SimulatedFunnel:
    """`lines`: the true s(b) of each stage; `startup_s`: median seconds from the request for a replica to its first
    batch, log-normal with `startup_spread`; `visits`: share of the requests that reach a stage, 1 by default;
    `placeable`: the most replicas that the cluster has room for; `quality` None: every answer is a full one."""

    specs: Mapping[str, StageSpec]
    lines: Mapping[str, Line]
    slo_s: float = 0.2
    startup_s: float = 5.0
    startup_spread: float = 0.15
    max_queue: int = 100_000
    visits: Mapping[str, float] | None = None
    placeable: Mapping[str, int] | None = None
    quality: QualityLaw | None = None

    @property
    def step_s(self) -> float:
        """Length of a time step."""
        return self.slo_s / STEPS_PER_SLO
