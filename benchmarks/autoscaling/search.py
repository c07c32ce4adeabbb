"""The goals of tuning (`Goal`) and its search space: `TUNED` has per policy how to make it and draw its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.autoscaling.serve_law import ServeLaw
from cluster.autoscaling.policy import PolicyConfig
from cluster.autoscaling.stabilization import Windows
from cluster.simulator.funnel import SimulatedFunnel
from cluster.simulator.reference_policies import FixedReplicas, Knative, Kubernetes, RayfunnelPolicy
from cluster.simulator.simulator import Scaler
from graphs.commands.simulate import base_replicas

Numbers = dict[str, float]
Rng = np.random.Generator
RATE = 500.0
"""Requests/s of a scenario's base load."""


@dataclass(frozen=True)
class Goal:
    """The fewest misses at `most_cost` times the oracle's cost; with 0, the lowest cost with at most `most_missed`, a
    share of the requests."""

    most_cost: float = 0.0
    most_missed: float = 0.0

    def __str__(self) -> str:
        if self.most_cost:
            return f"the fewest misses at {self.most_cost} x the oracle's cost"
        return f"the least cost with {self.most_missed:.2%} missed"

    def excess(self, missed: float, cost: float) -> float:
        """How far beyond the limit; 0: within it."""
        return max(0.0, cost - self.most_cost if self.most_cost else missed - self.most_missed)

    def rank(self, missed: float, cost: float) -> tuple[float, float]:
        """The lower, the better."""
        return self.excess(missed, cost), missed if self.most_cost else cost


EQUAL = (
    *(Goal(most_missed=share) for share in (1e-2, 1e-3, 1e-4)),
    *(Goal(most_cost=cost) for cost in (1.3, 1.6, 2.0)),
)
"""Cost at equal misses, misses at equal cost."""


def _log(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def random_ours(rng: Rng) -> Numbers:
    """Random parameters of our policy."""
    return {
        "utilisation": rng.uniform(0.6, 0.95),
        "burst": _log(rng, 0.1, 2.0),
        # Another order would draw other numbers than those in RESULTS.md.
        "spare": rng.choice([0.0, 1000.0, 100.0, 200.0, 400.0]),
        "mean_s": rng.choice([5.0, 10.0, 30.0]),
        "longest_lead_s": _log(rng, 3, 30),
        "most_growth": _log(rng, 2, 10),
        "stable_s": rng.choice([30.0, 60.0, 120.0, 300.0]),
    }


def random_serve(rng: Rng) -> Numbers:
    """Random parameters of Ray Serve's law."""
    interval_s = float(rng.choice([0.5, 1.0, 2.0]))
    return {
        "target_ongoing_requests": _log(rng, 0.5, 12),
        "upscale_delay_s": rng.choice([0.0, 1.0, 5.0]),
        "downscale_delay_s": rng.choice([10.0, 30.0, 60.0, 120.0, 300.0]),
        "look_back_period_s": interval_s * rng.choice([2.0, 5.0, 15.0]),
        "metrics_interval_s": interval_s,
        "upscaling_factor": _log(rng, 0.7, 3),
        "downscaling_factor": _log(rng, 0.2, 1),
    }


def _knative(rng: Rng) -> Numbers:
    return {
        "target": _log(rng, 0.5, 12),
        "stable_s": rng.choice([10.0, 30.0, 60.0, 120.0]),
        "panic_share": rng.choice([0.05, 0.1, 0.2]),
        "panic_ratio": rng.choice([1.25, 1.5, 2.0]),
        "down_delay_s": rng.choice([0.0, 30.0, 120.0]),
    }


def _kubernetes(rng: Rng) -> Numbers:
    return {
        "target": _log(rng, 0.5, 12),
        "metric_s": rng.choice([10.0, 15.0, 30.0]),
        "stabilization_s": rng.choice([30.0, 60.0, 120.0, 300.0]),
        "sync_s": rng.choice([5.0, 15.0]),
    }


def make_ours(funnel: SimulatedFunnel, numbers: Numbers) -> Scaler:
    """Our policy with these parameters."""
    numbers = dict(numbers)
    windows = Windows(stable_s=numbers.pop("stable_s", 300.0))
    return RayfunnelPolicy(funnel.specs, PolicyConfig(slo_s=funnel.slo_s, windows=windows, **numbers))


Maker = Callable[[SimulatedFunnel, Numbers], Scaler]
TUNED: dict[str, tuple[Maker, Callable[[Rng], Numbers]]] = {
    "ours": (make_ours, random_ours),
    "Serve, tuned": (lambda funnel, numbers: ServeLaw(funnel, **numbers), random_serve),
    "Knative, tuned": (lambda funnel, numbers: Knative(funnel.specs, **numbers), _knative),
    "Kubernetes, tuned": (lambda funnel, numbers: Kubernetes(funnel.specs, **numbers), _kubernetes),
    "best static": (
        lambda funnel, numbers: FixedReplicas(base_replicas(funnel, numbers["rate"], 0.85)),
        lambda rng: {},
    ),
}
