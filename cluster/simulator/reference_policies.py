"""Policies for the simulator: the project's own, Knative's, Kubernetes', a fixed number, and an oracle.

Written from their documentation: Knative Serving "Autoscaling" (stable and panic windows on average concurrency) and
Kubernetes "Horizontal Pod Autoscaling" (ratio to a target, tolerance, stabilization window, default scaling policies).
Ray Serve's own law is not imitated here: benchmarks/autoscaling/serve_law.py calls Ray's function.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np

from cluster.autoscaling.capacity import StageSpec, capacities
from cluster.autoscaling.observations import Observation
from cluster.autoscaling.policy import Policy, PolicyConfig
from cluster.autoscaling.stabilization import SlidingMax
from cluster.simulator.funnel import SimulatedFunnel
from cluster.simulator.traces import RATE_STEP_S, Trace


class RayfunnelPolicy:
    """The project's policy, with the simulator's interface."""

    def __init__(self, specs: Mapping[str, StageSpec], config: PolicyConfig | None = None) -> None:
        self.policy = Policy(specs, config)

    def decide(self, observation: Observation) -> Mapping[str, int]:
        """The targets alone."""
        return {name: decision.target for name, decision in self.policy.decide(observation).items()}


@dataclass(frozen=True)
class FixedReplicas:
    """Always the same replicas."""

    replicas: Mapping[str, int]

    def decide(self, observation: Observation) -> Mapping[str, int]:
        """The same at all times."""
        return self.replicas


class OngoingMean:
    """Mean of the ongoing requests per stage over the last seconds."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._samples: dict[str, deque[tuple[float, float]]] = {}

    def add(self, observation: Observation) -> None:
        """Adds the number of requests that are ongoing now."""
        for name, stage in observation.stages.items():
            samples = self._samples.setdefault(name, deque())
            samples.append((observation.now, stage.ongoing))
            while samples[0][0] < observation.now - self._longest_s:
                samples.popleft()

    def mean(self, name: str, since: float, until: float) -> float:
        """Over the samples in (since, until]; 0 if there is none."""
        values = [value for at, value in self._samples.get(name, ()) if since < at <= until]
        return sum(values) / len(values) if values else 0.0


@dataclass
class Knative:
    """Knative's pod autoscaler. `target`: concurrent requests per replica."""

    specs: Mapping[str, StageSpec]
    target: float = 10.0
    stable_s: float = 60.0
    panic_share: float = 0.1
    panic_ratio: float = 2.0
    down_delay_s: float = 0.0
    tick_s: float = 2.0

    def __post_init__(self) -> None:
        self._means = OngoingMean(self.stable_s)
        self._panic_until = dict.fromkeys(self.specs, float("-inf"))
        self._delayed = {name: SlidingMax(self.down_delay_s) for name in self.specs}
        self._next = 0.0
        self._targets: dict[str, int] = {}

    def decide(self, observation: Observation) -> Mapping[str, int]:
        """Every two seconds: the stable window's need; in panic the larger of both windows' needs, never falling."""
        now = observation.now
        self._means.add(observation)
        if now < self._next:
            return self._targets
        self._next = now + self.tick_s
        for name, spec in self.specs.items():
            stage = observation.stages[name]
            ready = max(1, stage.ready)
            stable = ceil(self._means.mean(name, now - self.stable_s, now) / self.target)
            panic = ceil(self._means.mean(name, now - self.stable_s * self.panic_share, now) / self.target)
            if panic / ready >= self.panic_ratio:
                self._panic_until[name] = now + self.stable_s
            stable = max(stable, ready // 2)  # max-scale-down-rate 2
            if now < self._panic_until[name]:
                stable = max(stable, panic, stage.target)
            self._targets[name] = spec.bounded(self._delayed[name].add(now, max(1, stable)))
        return self._targets


@dataclass
class Kubernetes:
    """Kubernetes' horizontal pod autoscaler on ongoing requests per pod."""

    specs: Mapping[str, StageSpec]
    target: float = 10.0
    metric_s: float = 30.0
    sync_s: float = 15.0
    stabilization_s: float = 300.0
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        self._means = OngoingMean(self.metric_s)
        self._highest = {name: SlidingMax(self.stabilization_s) for name in self.specs}
        self._next = 0.0
        self._targets: dict[str, int] = {}

    def decide(self, observation: Observation) -> Mapping[str, int]:
        """Every 15 s: replicas × ratio; up by at most the double or four pods, down to the window's highest."""
        now = observation.now
        self._means.add(observation)
        if now < self._next:
            return self._targets
        self._next = now + self.sync_s
        for name, spec in self.specs.items():
            stage = observation.stages[name]
            ready = max(1, stage.ready)
            ratio = self._means.mean(name, now - self.metric_s, now) / (self.target * ready)
            wanted = stage.target if abs(ratio - 1) <= self.tolerance else ceil(ready * ratio)
            wanted = min(wanted, max(2 * stage.target, stage.target + 4))
            self._targets[name] = spec.bounded(max(1, self._highest[name].add(now, wanted)))
        return self._targets


class Oracle:
    """Has the expected rate of all time, and requests each replica just early enough to be ready when it is needed.

    `utilisation`: of a replica's requests/s; `active_from_s`: before that moment it keeps `base` (the onset floor: the
    future is known, but only once the load has begun to rise).
    """

    def __init__(
        self,
        trace: Trace,
        funnel: SimulatedFunnel,
        utilisation: float = 0.85,
        active_from_s: float = 0.0,
        base: Mapping[str, int] | None = None,
    ) -> None:
        capacity = capacities(funnel.specs, funnel.lines, funnel.slo_s)
        lead = round((funnel.startup_s * (1 + 3 * funnel.startup_spread) + 0.5) / RATE_STEP_S)
        visits = funnel.visits or {}
        self._plans = {}
        for name, spec in funnel.specs.items():
            need = np.ceil(trace.rates * visits.get(name, 1.0) / (capacity[name].rate * utilisation))
            padded = np.concatenate([need, np.full(lead, need[-1])])
            ahead = np.lib.stride_tricks.sliding_window_view(padded, lead + 1).max(axis=1)
            self._plans[name] = np.clip(ahead, spec.min_replicas, spec.max_replicas).astype(np.int64)
        self._active_from_s, self._base = active_from_s, base

    def decide(self, observation: Observation) -> Mapping[str, int]:
        """The plan's replicas at this time."""
        if self._base is not None and observation.now < self._active_from_s:
            return self._base
        step = round(observation.now / RATE_STEP_S)
        return {name: int(plan[min(len(plan) - 1, step)]) for name, plan in self._plans.items()}
