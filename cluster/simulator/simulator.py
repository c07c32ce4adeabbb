"""Simulates the funnel under a trace, with a policy that sets its replicas: `simulate(trace, policy, funnel, seed)`.

Time advances in steps (2 % of the objective, step.py). The policy decides once per tick of 0.5 s. A request is a miss
when it is not answered within the objective, which is its deadline too.

Approximations: one queue per stage in front of all its replicas; times are whole steps, rounded at random; batches of
one step and stage have one size and share one draw of the noise; a replica that is dropped finishes its batch unbilled.
The cost of a run therefore depends on its length and not on its rate. Live, all requests wait in one queue before the
first stage, since a batch keeps its slot until it is answered; here a queue forms before any stage that is short. Live,
a timer answers a request at its deadline; here that request is a miss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from cluster.autoscaling.observations import Observation, StageObservation
from cluster.simulator.funnel import TICK_S, SimulatedFunnel
from cluster.simulator.replica_pool import ReplicaPool
from cluster.simulator.results import Run
from cluster.simulator.step import FunnelState, Reports
from cluster.simulator.traces import Trace


class Scaler(Protocol):
    """An autoscaling policy."""

    def decide(self, observation: Observation) -> Mapping[str, int]:
        """The replicas wanted per stage."""
        ...


def simulate(
    trace: Trace, policy: Scaler, funnel: SimulatedFunnel, seed: int, start: Mapping[str, int], warm_up_s: float = 60.0
) -> Run:
    """`start`: replicas per stage at first; `warm_up_s`: seconds that count for nothing in the result's shares."""
    names = tuple(funnel.specs)
    assert abs(trace.step_s - funnel.step_s) < 1e-9, "the trace was made for another length of step"
    rng = np.random.default_rng(seed + 7919)
    state = FunnelState(funnel, names, rng)
    pools = [ReplicaPool(start[name]) for name in names]
    per_tick = round(TICK_S / funnel.step_s)
    ticks = len(trace.counts) // per_tick
    keys = ("ready", "billed", "queue", "arrived", "missed", "shed")
    history: dict[str, list[Any]] = {key: [] for key in keys}
    reports = state.reports(0.0, names)
    for tick in range(ticks):
        now = tick * TICK_S
        observation = _observation(now, names, pools, reports)
        reports = state.reports(now, names)
        targets = policy.decide(observation)
        for pool, name in zip(pools, names, strict=True):
            placeable = funnel.placeable[name] if funnel.placeable else 10**9
            pool.scale(now, int(targets.get(name, pool.target)), placeable, funnel, rng)
        ready = np.array([pool.ready for pool in pools], dtype=np.int64)
        before = state.outcome.copy()
        state.advance(tick * per_tick, trace.counts[tick * per_tick : (tick + 1) * per_tick], ready)
        arrived, _, expired, shed = state.outcome - before
        history["ready"].append(ready)
        history["billed"].append([pool.billed for pool in pools])
        history["queue"].append(state.queue.sum())
        history["arrived"].append(arrived)
        history["missed"].append(expired + shed)
        history["shed"].append(shed)
    arrays = {key: np.array(values, dtype=np.float64) for key, values in history.items()}
    assert arrays["ready"].shape == (ticks, len(names))
    return Run(names, p99_s=state.p99_s(), from_tick=min(ticks - 1, round(warm_up_s / TICK_S)), **arrays)


def _observation(now: float, names: tuple[str, ...], pools: list[ReplicaPool], reports: Reports) -> Observation:
    root, stages = reports
    return Observation(
        now,
        {"ingress": root},
        {
            name: StageObservation(pool.ready, pool.target, {"all": stages[name][0]}, stages[name][1])
            for name, pool in zip(names, pools, strict=True)
        },
    )
