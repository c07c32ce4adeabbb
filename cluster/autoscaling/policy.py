"""The autoscaling policy: one object that sets all stages of the funnel together, from the root arrival rate.

rate and trend at the root → per stage λ by visit ratio, s(b) and need → stability → placement → budget → targets.
Pure: it is given the time and what was observed, and returns decisions. The controller and the simulator drive the same
object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf, isfinite

from cluster.autoscaling.arrivals import Arrivals, Trend
from cluster.autoscaling.budget import share
from cluster.autoscaling.capacity import Capacity, Demand, StageSpec, capacities, headroom, needed, whole
from cluster.autoscaling.latency_model import LatencyModel
from cluster.autoscaling.observations import Differences, Observation, StageObservation, queued
from cluster.autoscaling.placement import Placement
from cluster.autoscaling.stability import Stability, Windows
from cluster.autoscaling.trend_trust import TrendTrust


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """The policy's numbers. `slo_s`: answers should come within it; `tail`: share that may not; `utilisation`: ρ at
    most; `burst`: factor on the computed headroom; `spare`: requests/s of headroom on top; `mean_s`: window of λ̄;
    `longest_lead_s`: how far ahead a trend is followed; `most_growth`: the trend adds at most so many times the rate;
    `doubt`: weight of the latest forecast's outcome in how far trends are trusted, 0: wholly;
    `tick_s`: decisions are at least so far apart; `cpus`, `gpus`: the budget."""

    slo_s: float = 0.2
    tail: float = 0.01
    utilisation: float = 0.85
    burst: float = 1.0
    spare: float = 0.0
    mean_s: float = 10.0
    longest_lead_s: float = 30.0
    most_growth: float = 10.0
    sigmas: float = 4.1
    doubt: float = 0.3
    tick_s: float = 0.2
    pending_expiry_s: float = 60.0
    cpus: float = inf
    gpus: float = inf
    windows: Windows = field(default_factory=Windows)

    def __post_init__(self) -> None:
        for name in ("slo_s", "tail", "utilisation", "mean_s", "most_growth", "sigmas", "pending_expiry_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)!r} must be greater than 0")
        for name in ("tail", "utilisation"):
            if not getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)!r} must be less than 1")
        if not 0 <= self.doubt <= 1:
            raise ValueError(f"doubt = {self.doubt!r} must lie between 0 and 1")


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a stage gets `target` replicas: what the policy knew. Rates in requests/s, times in seconds.

    `quality`: what the ready replicas can carry of the rate, at most 1; `room`: the most that the cluster can place, if
    that was met."""

    stage: str
    target: int
    desired: int
    ready: int
    rate: float
    rise: float
    queue: float
    a: float
    c: float
    batch: int
    mu: float
    rho: float
    headroom: float
    quality: float
    startup_s: float
    room: int | None
    reason: str


class _Stage:
    """What is kept per stage."""

    def __init__(self, spec: StageSpec, config: PolicyConfig) -> None:
        self.spec = spec
        self.differences = Differences()
        self.latency = LatencyModel(spec.prior, spec.max_batch)
        self.stability = Stability(config.windows)
        self.placement = Placement(spec.startup_s, config.pending_expiry_s)
        self.visits = 1.0
        self.seen_at: float | None = None
        self.overload_at = -inf


class Policy:
    """`specs`: the stages that it sets. `decide` may be called at any pace."""

    def __init__(self, specs: Mapping[str, StageSpec], config: PolicyConfig | None = None) -> None:
        self.config = config or PolicyConfig()
        self._specs = dict(specs)
        self._stages = {name: _Stage(spec, self.config) for name, spec in specs.items()}
        self._root = Differences()
        self._arrivals = Arrivals(self.config.sigmas)
        self._foresight = TrendTrust(self.config.doubt)
        self._decided_at = -inf
        self._decisions: dict[str, Decision] = {}

    def decide(self, seen: Observation) -> dict[str, Decision]:
        """A decision for every stage observed. An observation that makes no sense changes nothing."""
        if not isfinite(seen.now) or seen.now < self._decided_at:
            return self._decisions
        if seen.now - self._decided_at < self.config.tick_s - 1e-6 and self._decisions.keys() == seen.stages.keys():
            return self._decisions
        self._decided_at = seen.now
        root = self._root.update(seen.root, seen.now)
        for change in root:
            self._arrivals.add(change.began, change.ended, change.counters.arrivals)
        arrived = sum(change.counters.arrivals for change in root)
        lost = sum(change.counters.expired + change.counters.shed for change in root)
        for name, stage in self._stages.items():
            if name in seen.stages:
                self._learn(stage, seen.stages[name], seen.now, arrived, lost)

        end = min(seen.now, self._root.latest(seen.now))
        lines = {name: stage.latency.line for name, stage in self._stages.items()}
        capacity = capacities(self._specs, lines, self.config.slo_s)
        level, mean = self._arrivals.level(end, self.config.mean_s), self._arrivals.rate(self.config.mean_s, end)
        trend, dispersion = self._arrivals.trend(end), self._arrivals.dispersion(end)
        trend = self._trusted(trend, level, end, seen.now - end)
        at_root = queued(seen.root)
        drafts = {
            name: self._draft(
                name, stage, seen, capacity[name], level, mean, trend, dispersion, seen.now - end, at_root
            )
            for name, stage in self._stages.items()
            if name in seen.stages
        }
        given = share({n: d.target for n, d in drafts.items()}, self._specs, self.config.cpus, self.config.gpus)
        self._decisions = {name: self._final(name, draft, given[name], seen.now) for name, draft in drafts.items()}
        return self._decisions

    def _trusted(self, trend: Trend, level: float, end: float, lag_s: float) -> Trend:
        """The trend, as steep as earlier ones have proved."""
        startup_s = max((stage.placement.startup_s for stage in self._stages.values()), default=0.0)
        lead_s = min(self.config.longest_lead_s, startup_s) + lag_s
        growth = min(trend.slope * lead_s, self.config.most_growth * level)
        trust = self._foresight.update(end, level, trend.rate, growth, lead_s)
        return trend._replace(slope=trend.slope * trust)

    def _learn(self, stage: _Stage, seen: StageObservation, now: float, root: float, lost: float) -> None:
        changes = stage.differences.update(seen.reports, now)
        elapsed_s = 0.0 if stage.seen_at is None else now - stage.seen_at
        stage.seen_at = now
        totals = [sum(column) for column in zip(*(change.counters for change in changes), strict=True)]
        if not totals:
            return
        arrivals, _, expired, shed, busy_s, batches, items = totals
        stage.latency.add(batches, items, busy_s, elapsed_s)
        if lost + expired + shed > 0:
            stage.overload_at = now
        # What an overloaded stage before it drops never gets here, and must not look like a cache.
        if root >= 1 and now - stage.overload_at > 5.0:
            ratio = min(4.0, arrivals / root)
            weight = min(0.05, root / 10_000)
            stage.visits += weight * (ratio - stage.visits)

    def _draft(
        self,
        name: str,
        stage: _Stage,
        seen: Observation,
        capacity: Capacity,
        level: float,
        mean: float,
        trend: Trend,
        dispersion: float,
        lag_s: float,
        at_root: float,
    ) -> Decision:
        """The decision for one stage as if it were alone."""
        config, spec, view = self.config, stage.spec, seen.stages[name]
        ready, current = max(0, view.ready), max(0, view.target)
        lead_s = min(config.longest_lead_s, stage.placement.startup_s) + lag_s
        rise = 0.0
        if trend.slope > 0:
            rise = max(0.0, trend.rate + trend.slope * lead_s - level)
            rise = min(rise, config.most_growth * level)
        waiting = max(0.0, seen.queued.get(name, 0.0)) if isfinite(seen.queued.get(name, 0.0)) else 0.0
        queue = min(1e6, waiting + queued(view.reports) + at_root)
        rate = level * stage.visits
        usual = max(rate * capacity.wait_s, float(capacity.batch * spec.slots * max(1, ready)))
        # A longer queue than one objective's arrivals has died before it can be drained.
        excess = min(max(0.0, queue - usual), rate * config.slo_s)
        extra = config.burst * headroom(dispersion, capacity.wait_s, config.tail) + config.spare
        demand = Demand(rate, mean * stage.visits, 0.0, 0.0)
        rushed = Demand(rate, mean * stage.visits, rise * stage.visits, excess)
        idle = level <= 0 and queue <= 0 and spec.min_replicas == 0
        if idle:
            lasting = brief = 0.0
        else:
            lasting = needed(demand, capacity.rate, config.utilisation, extra, config.slo_s)
            brief = needed(rushed, capacity.rate, config.utilisation, extra, config.slo_s)
        lasting, brief = min(lasting, float(spec.max_replicas)), min(brief, float(spec.max_replicas))
        least = spec.min_replicas if idle else max(1, spec.min_replicas)
        target, reason = stage.stability.target(
            seen.now, current, ready, lasting, brief, least, stage.placement.startup_s
        )
        target = spec.bounded(target)
        placed = spec.bounded(stage.placement.limit(seen.now, ready, target))
        if placed < target:
            target, reason = placed, "no room in the cluster"
        carried = ready * capacity.rate
        return Decision(
            stage=name,
            target=target,
            desired=spec.bounded(whole(brief)),
            ready=ready,
            rate=rate,
            rise=rise * stage.visits,
            queue=queue,
            a=stage.latency.line.a,
            c=stage.latency.line.c,
            batch=capacity.batch,
            mu=capacity.rate,
            rho=config.utilisation,
            headroom=extra,
            quality=min(1.0, carried / rate) if rate > 0 else 1.0,
            startup_s=stage.placement.startup_s,
            room=stage.placement.room,
            reason=reason,
        )

    def _final(self, name: str, draft: Decision, given: int, now: float) -> Decision:
        """The draft, cut to what the budget gives."""
        self._stages[name].placement.asked(now, given)
        if given == draft.target:
            return draft
        fields = {key: getattr(draft, key) for key in Decision.__slots__} | {"target": given, "reason": "budget"}
        return Decision(**fields)
