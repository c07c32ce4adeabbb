"""Other policies for the simulator: Knative's and Kubernetes' laws, a fixed number, and oracles that know the future.

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
from cluster.autoscaling.stability import Highest
from cluster.simulator.simulator import Plant
from cluster.simulator.traces import RATE_STEP_S, Trace


class Ours:
    """The project's policy, as the simulator wants it."""

    def __init__(self, specs: Mapping[str, StageSpec], config: PolicyConfig | None = None) -> None:
        self.policy = Policy(specs, config)

    def decide(self, seen: Observation) -> Mapping[str, int]:
        """The targets alone."""
        return {name: decision.target for name, decision in self.policy.decide(seen).items()}


@dataclass(frozen=True)
class Static:
    """Always the same replicas."""

    replicas: Mapping[str, int]

    def decide(self, seen: Observation) -> Mapping[str, int]:
        """The same as ever."""
        return self.replicas


class Means:
    """Ongoing requests per stage, averaged over the last seconds."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._seen: dict[str, deque[tuple[float, float]]] = {}

    def add(self, seen: Observation) -> None:
        """Remembers what is ongoing now."""
        for name, stage in seen.stages.items():
            kept = self._seen.setdefault(name, deque())
            kept.append((seen.now, stage.ongoing))
            while kept[0][0] < seen.now - self._longest_s:
                kept.popleft()

    def mean(self, name: str, since: float, until: float) -> float:
        """Over what was seen in (since, until]; 0 if nothing was."""
        values = [value for at, value in self._seen.get(name, ()) if since < at <= until]
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
        self._means = Means(self.stable_s)
        self._panic_until = dict.fromkeys(self.specs, float("-inf"))
        self._delayed = {name: Highest(self.down_delay_s) for name in self.specs}
        self._next = 0.0
        self._wanted: dict[str, int] = {}

    def decide(self, seen: Observation) -> Mapping[str, int]:
        """Every two seconds: the stable window's need, in panic the larger of both windows' and never less."""
        self._means.add(seen)
        if seen.now < self._next:
            return self._wanted
        self._next = seen.now + self.tick_s
        for name, spec in self.specs.items():
            stage = seen.stages[name]
            ready = max(1, stage.ready)
            stable = ceil(self._means.mean(name, seen.now - self.stable_s, seen.now) / self.target)
            panic = ceil(self._means.mean(name, seen.now - self.stable_s * self.panic_share, seen.now) / self.target)
            if panic / ready >= self.panic_ratio:
                self._panic_until[name] = seen.now + self.stable_s
            stable = max(stable, ready // 2)  # max-scale-down-rate 2
            if seen.now < self._panic_until[name]:
                stable = max(stable, panic, stage.target)
            self._wanted[name] = spec.bounded(self._delayed[name].add(seen.now, max(1, stable)))
        return self._wanted


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
        self._means = Means(self.metric_s)
        self._highest = {name: Highest(self.stabilization_s) for name in self.specs}
        self._next = 0.0
        self._wanted: dict[str, int] = {}

    def decide(self, seen: Observation) -> Mapping[str, int]:
        """Every 15 s: replicas × ratio; up by at most the double or four pods, down to the window's highest."""
        self._means.add(seen)
        if seen.now < self._next:
            return self._wanted
        self._next = seen.now + self.sync_s
        for name, spec in self.specs.items():
            stage = seen.stages[name]
            ready = max(1, stage.ready)
            ratio = self._means.mean(name, seen.now - self.metric_s, seen.now) / (self.target * ready)
            wanted = stage.target if abs(ratio - 1) <= self.tolerance else ceil(ready * ratio)
            wanted = min(wanted, max(2 * stage.target, stage.target + 4))
            self._wanted[name] = spec.bounded(max(1, self._highest[name].add(seen.now, wanted)))
        return self._wanted


class Oracle:
    """Knows the expected rate of all time and asks for each replica so early that it is ready when needed, no earlier.

    `utilisation`: of a replica's requests/s; `knows_from_s`: before that moment it keeps `base` (the onset floor: it
    knows all, but only once the load has begun to rise).
    """

    def __init__(
        self,
        trace: Trace,
        plant: Plant,
        utilisation: float = 0.85,
        knows_from_s: float = 0.0,
        base: Mapping[str, int] | None = None,
    ) -> None:
        capacity = capacities(plant.specs, plant.lines, plant.slo_s)
        lead = round((plant.startup_s * (1 + 3 * plant.startup_spread) + 0.5) / RATE_STEP_S)
        visits = plant.visits or {}
        self._plans = {}
        for name, spec in plant.specs.items():
            need = np.ceil(trace.rates * visits.get(name, 1.0) / (capacity[name].rate * utilisation))
            padded = np.concatenate([need, np.full(lead, need[-1])])
            ahead = np.lib.stride_tricks.sliding_window_view(padded, lead + 1).max(axis=1)
            self._plans[name] = np.clip(ahead, spec.min_replicas, spec.max_replicas).astype(np.int64)
        self._knows_from_s, self._base = knows_from_s, base

    def decide(self, seen: Observation) -> Mapping[str, int]:
        """What the plan says for now."""
        if self._base is not None and seen.now < self._knows_from_s:
            return self._base
        return {
            name: int(plan[min(len(plan) - 1, round(seen.now / RATE_STEP_S))]) for name, plan in self._plans.items()
        }
