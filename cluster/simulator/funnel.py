"""What is simulated: the stages, their true service times, start-up, and queue bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.autoscaling.capacity import StageSpec
from cluster.autoscaling.latency_model import Line

STEPS_PER_SLO = 50
TICK_S = 0.5
"""Seconds between two decisions of the policy; its reports are one tick old."""


@dataclass(frozen=True, slots=True)
class SimulatedFunnel:
    """`lines`: the true s(b) of each stage; `startup_s`: median seconds from the request for a replica to its first
    batch, log-normal with `startup_spread`; `visits`: share of the requests that reach a stage, 1 by default;
    `placeable`: the most replicas that the cluster has room for."""

    specs: Mapping[str, StageSpec]
    lines: Mapping[str, Line]
    slo_s: float = 0.2
    startup_s: float = 5.0
    startup_spread: float = 0.15
    max_queue: int = 100_000
    visits: Mapping[str, float] | None = None
    placeable: Mapping[str, int] | None = None

    @property
    def step_s(self) -> float:
        """Length of a time step."""
        return self.slo_s / STEPS_PER_SLO
