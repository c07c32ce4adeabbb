"""Computes what one replica can serve, and how many replicas a stage needs for a rate of requests.

k = ceil(max(λ / (μρ), (λ̄ + H) / μ)), λ the rate now, λ̄ the mean, μ the requests per second of a full replica. H is an
additive burst headroom. In Kingman's approximation the wait in a queue in heavy traffic is exponential with mean
(ca² + cs²) / (2 (kμ − λ)). It exceeds t with a probability of at most ε if kμ ≥ λ + ln(1/ε) (ca² + cs²) / (2t). That
headroom is additive: it depends on neither k nor μ. (Kingman, 1961, *The single server queue in heavy traffic*.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log

from cluster.autoscaling.latency_model import Line

PRIOR = Line(0.004, 0.0005)
"""Default s(b) before anything is measured: 4 ms per batch and 0.5 ms per request."""
SERVICE_CV2 = 0.25
"""Squared coefficient of variation of a batch's service time that the headroom assumes."""


@dataclass(frozen=True, slots=True)
class StageSpec:
    """Configuration of a stage. `prior`: s(b) before anything is measured; `slots`: batches that one replica computes
    at a time; `num_cpus`, `num_gpus`: of one replica; `startup_s`: a first guess of its start-up time."""

    min_replicas: int = 1
    max_replicas: int = 1
    slots: int = 1
    max_batch: int = 64
    prior: Line = PRIOR
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    startup_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise ValueError(f"replicas {self.min_replicas}..{self.max_replicas}: must be 0 ≤ min ≤ max, and max ≥ 1")
        if self.slots < 1 or self.max_batch < 1:
            raise ValueError("slots and max_batch must be at least 1")

    def bounded(self, replicas: int) -> int:
        """The nearest count that the bounds allow."""
        return max(self.min_replicas, min(self.max_replicas, replicas))


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of one replica of a stage. `batch`: batch size under load; `rate`: μ, requests/s; `wait_s`: how long its requests
    may wait."""

    batch: int
    rate: float
    wait_s: float


@dataclass(frozen=True, slots=True)
class Demand:
    """Load of a stage. `now`: λ and `mean`: λ̄, requests/s; `rise`: requests/s that a trend adds until a new replica is
    ready; `excess`: queued requests beyond the queue of a stage with enough replicas."""

    now: float
    mean: float
    rise: float = 0.0
    excess: float = 0.0


def capacities(specs: Mapping[str, StageSpec], lines: Mapping[str, Line], slo_s: float) -> dict[str, Capacity]:
    """Per stage the largest batch that leaves half of its share of `slo_s` for waiting, and its rate and wait.

    A stage's share is in proportion to the time of its full batch. With natural batching a request waits for the batch
    before its own, so that it takes up to 2·s(b).
    """
    full = {name: max(1e-6, lines[name].seconds(spec.max_batch)) for name, spec in specs.items()}
    total = sum(full.values())
    found = {}
    for name, spec in specs.items():
        share_s = slo_s * full[name] / total
        batch = lines[name].largest_batch(share_s / 2, spec.max_batch)
        wait_s = max(0.1 * share_s, share_s - lines[name].seconds(batch))
        found[name] = Capacity(batch, spec.slots * lines[name].throughput(batch), wait_s)
    return found


def headroom(dispersion: float, wait_s: float, tail: float) -> float:
    """H in requests per second: the wait exceeds `wait_s` with probability `tail` (the formula above)."""
    return log(1.0 / tail) * (dispersion + SERVICE_CV2) / (2.0 * wait_s)


def replicas_needed(demand: Demand, rate: float, rho: float, extra: float, drain_s: float) -> float:
    """Replicas, not rounded, for `demand` with `rate` = μ each; `extra`: H; `drain_s`: seconds to drain the excess.

    Grows with each part of the demand and falls with μ and ρ.
    """
    arriving = demand.now + demand.rise
    return max(arriving / (rate * rho), (max(demand.mean, arriving) + extra + demand.excess / drain_s) / rate)


def round_up(replicas: float) -> int:
    """To the next whole number, with a tolerance of 1e-6 for rounding errors."""
    return ceil(min(replicas, 1e9) - 1e-6)
