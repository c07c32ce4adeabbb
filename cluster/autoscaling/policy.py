"""Decides how many replicas every stage gets, all stages together, from the arrival rate at the ingress.

rate and trend → per stage its rate (visit ratio), s(b), need → stabilization → room in the cluster → budget → targets.
Pure: time and observations are arguments, decisions the result. Serve's controller and the simulator call one class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf, isfinite

from cluster.autoscaling.arrival_rate import ArrivalRate, Trend
from cluster.autoscaling.capacity import Capacity, Demand, StageSpec, capacities, headroom, replicas_needed, round_up
from cluster.autoscaling.latency_model import LatencyModel
from cluster.autoscaling.observations import Differences, Observation, StageObservation, queued
from cluster.autoscaling.provisioning import Provisioning
from cluster.autoscaling.resource_budget import fit_to_budget
from cluster.autoscaling.stabilization import Stabilizer, Windows
from cluster.autoscaling.trend_trust import TrendTrust


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """The policy's parameters. `slo_s`: latency objective; `tail`: share of the requests that may exceed it;
    `utilisation`: the highest ρ; `burst`: factor on the computed headroom; `spare`: requests/s of headroom on top;
    `mean_s`: window of λ̄; `longest_lead_s`: how far ahead a trend is extrapolated; `most_growth`: a trend adds at most
    so many times the rate; `sigmas`: significance of a rise; `doubt`: weight of the latest forecast's outcome in the
    trust in trends, 0: full trust; `tick_s`: shortest time between decisions; `pending_expiry_s`: a replica that is not
    ready after it has no room in the cluster; `cpus`, `gpus`: the budget."""

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
    """The `target` replicas of a stage, and the values it follows from. Rates in requests/s, times in seconds.

    `served_share`: share of the rate that the ready replicas can serve; `room`: the most replicas that the
    cluster has room for, None if no limit was met."""

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
    served_share: float
    startup_s: float
    room: int | None
    reason: str


class _StageState:
    """State of one stage between decisions."""

    def __init__(self, spec: StageSpec, config: PolicyConfig) -> None:
        self.spec = spec
        self.differences = Differences()
        self.latency = LatencyModel(spec.prior, spec.max_batch)
        self.stabilizer = Stabilizer(config.windows)
        self.provisioning = Provisioning(spec.startup_s, config.pending_expiry_s)
        self.visits = 1.0
        self.observed_at: float | None = None
        self.overload_at = -inf


class Policy:
    """`specs`: the stages to scale. `decide` may be called at any interval."""

    def __init__(self, specs: Mapping[str, StageSpec], config: PolicyConfig | None = None) -> None:
        self.config = config or PolicyConfig()
        self._specs = dict(specs)
        self._stages = {name: _StageState(spec, self.config) for name, spec in specs.items()}
        self._root = Differences()
        self._arrivals = ArrivalRate(self.config.sigmas)
        self._trend_trust = TrendTrust(self.config.doubt)
        self._decided_at = -inf
        self._decisions: dict[str, Decision] = {}

    def decide(self, observation: Observation) -> dict[str, Decision]:
        """A decision for every stage observed. An observation without a valid, later time changes nothing."""
        now, stages = observation.now, observation.stages
        if not isfinite(now) or now < self._decided_at:
            return self._decisions
        if now - self._decided_at < self.config.tick_s - 1e-6 and self._decisions.keys() == stages.keys():
            return self._decisions
        self._decided_at = now
        root = self._root.update(observation.root, now)
        for change in root:
            self._arrivals.add(change.start, change.end, change.counters.arrivals)
        arrived = sum(change.counters.arrivals for change in root)
        lost = sum(change.counters.expired + change.counters.shed for change in root)
        for name, stage in self._stages.items():
            if name in stages:
                self._learn(stage, stages[name], now, arrived, lost)

        end = min(now, self._root.latest(now))
        lines = {name: stage.latency.line for name, stage in self._stages.items()}
        capacity = capacities(self._specs, lines, self.config.slo_s)
        level, mean = self._arrivals.level(end, self.config.mean_s), self._arrivals.rate(self.config.mean_s, end)
        trend, dispersion = self._arrivals.trend(end), self._arrivals.dispersion(end)
        trend = self._trusted(trend, level, end, now - end)
        root_queue = queued(observation.root)
        drafts = {
            name: self._draft(
                name, stage, observation, capacity[name], level, mean, trend, dispersion, now - end, root_queue
            )
            for name, stage in self._stages.items()
            if name in stages
        }
        targets = {name: draft.target for name, draft in drafts.items()}
        granted = fit_to_budget(targets, self._specs, self.config.cpus, self.config.gpus)
        self._decisions = {name: self._final(name, draft, granted[name], now) for name, draft in drafts.items()}
        return self._decisions

    def _trusted(self, trend: Trend, level: float, end: float, lag_s: float) -> Trend:
        """The trend, its slope reduced by the trust in trends."""
        startup_s = max((stage.provisioning.startup_s for stage in self._stages.values()), default=0.0)
        lead_s = min(self.config.longest_lead_s, startup_s) + lag_s
        growth = min(trend.slope * lead_s, self.config.most_growth * level)
        trust = self._trend_trust.update(end, level, trend.rate, growth, lead_s)
        return trend._replace(slope=trend.slope * trust)

    def _learn(self, stage: _StageState, observed: StageObservation, now: float, root: float, lost: float) -> None:
        changes = stage.differences.update(observed.reports, now)
        elapsed_s = 0.0 if stage.observed_at is None else now - stage.observed_at
        stage.observed_at = now
        totals = [sum(column) for column in zip(*(change.counters for change in changes), strict=True)]
        if not totals:
            return
        arrivals, _, expired, shed, busy_s, batches, items = totals
        stage.latency.add(batches, items, busy_s, elapsed_s)
        if lost + expired + shed > 0:
            stage.overload_at = now
        # Requests that an earlier stage drops under overload do not arrive here; they must not count as cache hits.
        if root >= 1 and now - stage.overload_at > 5.0:
            ratio = min(4.0, arrivals / root)
            weight = min(0.05, root / 10_000)
            stage.visits += weight * (ratio - stage.visits)

    def _draft(
        self,
        name: str,
        stage: _StageState,
        observation: Observation,
        capacity: Capacity,
        level: float,
        mean: float,
        trend: Trend,
        dispersion: float,
        lag_s: float,
        root_queue: float,
    ) -> Decision:
        """The decision for one stage before the budget."""
        config, spec, view = self.config, stage.spec, observation.stages[name]
        ready, current = max(0, view.ready), max(0, view.target)
        lead_s = min(config.longest_lead_s, stage.provisioning.startup_s) + lag_s
        rise = 0.0
        if trend.slope > 0:
            rise = max(0.0, trend.rate + trend.slope * lead_s - level)
            rise = min(rise, config.most_growth * level)
        waiting = max(0.0, observation.queued.get(name, 0.0)) if isfinite(observation.queued.get(name, 0.0)) else 0.0
        queue = min(1e6, waiting + queued(view.reports) + root_queue)
        rate = level * stage.visits
        usual = max(rate * capacity.wait_s, float(capacity.batch * spec.slots * max(1, ready)))
        # Of a queue longer than the arrivals within one objective, the rest expires before it can be drained.
        excess = min(max(0.0, queue - usual), rate * config.slo_s)
        extra = config.burst * headroom(dispersion, capacity.wait_s, config.tail) + config.spare
        demand = Demand(rate, mean * stage.visits, 0.0, 0.0)
        peak_demand = Demand(rate, mean * stage.visits, rise * stage.visits, excess)
        idle = level <= 0 and queue <= 0 and spec.min_replicas == 0
        if idle:
            steady = peak = 0.0
        else:
            steady = replicas_needed(demand, capacity.rate, config.utilisation, extra, config.slo_s)
            peak = replicas_needed(peak_demand, capacity.rate, config.utilisation, extra, config.slo_s)
        steady, peak = min(steady, float(spec.max_replicas)), min(peak, float(spec.max_replicas))
        least = spec.min_replicas if idle else max(1, spec.min_replicas)
        startup_s = stage.provisioning.startup_s
        target, reason = stage.stabilizer.target(observation.now, current, ready, steady, peak, least, startup_s)
        target = spec.bounded(target)
        limit = spec.bounded(stage.provisioning.limit(observation.now, ready, target))
        if limit < target:
            target, reason = limit, "no room in the cluster"
        served = ready * capacity.rate
        return Decision(
            stage=name,
            target=target,
            desired=spec.bounded(round_up(peak)),
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
            served_share=min(1.0, served / rate) if rate > 0 else 1.0,
            startup_s=stage.provisioning.startup_s,
            room=stage.provisioning.room,
            reason=reason,
        )

    def _final(self, name: str, draft: Decision, granted: int, now: float) -> Decision:
        """The draft, reduced to the replicas that the budget grants."""
        self._stages[name].provisioning.requested(now, granted)
        return draft if granted == draft.target else replace(draft, target=granted, reason="budget")
