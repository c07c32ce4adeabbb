"""Simulates the funnel under a trace, with a policy that sets its replicas: `simulate(trace, policy, plant, seed)`.

Time advances in steps (2 % of the objective). Within one, requests are counted by the step in which they arrived; a
stage's queue is first in, first out. When slots are free, what waits leaves at once, spread over them (natural
batching), up to `max_batch` each; a batch of b takes s(b) with gamma noise. A request is a miss when it is not answered
within the objective, which is its deadline too: a stage does not begin what full batches in it and after it could not
finish in time. Past `max_queue` a request is shed.

Approximations: one queue per stage in front of all its replicas; times are whole steps, rounded at random; batches of
one step and stage have one size and share one draw of the noise; a replica that is dropped finishes its batch unbilled.
The cost of a run therefore depends on its length and not on its rate.

`Plant.quality` adds the ingress' quality factor. Live, all waiting is in one queue before the first stage, since a
batch holds its slot until it is answered; here it is in front of whichever stage is short. So a request's wait is its
age less what the stages before its queue took; the median of what leaves a queue sets the factor, and the queue with
the longest wait decides; a batch is cut when it begins in a stage. At 0 the fallback answers what has waited `to_wait`
at once. A stage begins what can be finished in time when cut as its wait asks. What a deadline's own timer would answer
is a miss here, with quality as without. (Over 300 lines: one loop and what it counts.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numba import njit

from cluster.autoscaling.capacity import StageSpec
from cluster.autoscaling.latency_model import Line
from cluster.autoscaling.observations import Counters, Observation, Report, StageObservation
from cluster.simulator.quality_law import QualityLaw, ahead_s, fitting, numbers, share_of_work
from cluster.simulator.traces import Floats, Trace

STEPS_PER_SLO = 50
TICK_S = 0.5
"""A policy decides so often, on reports that are one tick old."""
_LONGEST_BATCHES = 2
"""No batch takes longer than so many objectives."""


class Scaler(Protocol):
    """What the simulator drives."""

    def decide(self, seen: Observation) -> Mapping[str, int]:
        """The replicas wanted per stage."""
        ...


@dataclass(frozen=True, slots=True)
class Plant:
    """The funnel that is simulated. `lines`: the true s(b) of each stage; `startup_s`: median time from the request for
    a replica to its first batch, log-normal with `startup_spread`; `placeable`: the most replicas there is room for;
    `quality`: None, every answer is a full one."""

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


@dataclass(frozen=True)
class Run:
    """What happened, per tick: `ready` and `billed` replicas [tick, stage], `queue` [tick], arrivals, misses, shed
    and degraded requests [tick], the last in time but not full; `p99_s` of those answered. Ticks before `from_tick`
    are a warm-up."""

    stages: tuple[str, ...]
    ready: Floats
    billed: Floats
    queue: Floats
    arrived: Floats
    missed: Floats
    shed: Floats
    degraded: Floats
    p99_s: float
    from_tick: int

    @property
    def miss_share(self) -> float:
        """Requests not answered within the objective, shed ones included."""
        return float(self.missed[self.from_tick :].sum() / max(1.0, self.arrived[self.from_tick :].sum()))

    @property
    def shed_share(self) -> float:
        """Requests refused at once."""
        return float(self.shed[self.from_tick :].sum() / max(1.0, self.arrived[self.from_tick :].sum()))

    @property
    def degraded_share(self) -> float:
        """Requests answered in time with less than the whole funnel gives."""
        return float(self.degraded[self.from_tick :].sum() / max(1.0, self.arrived[self.from_tick :].sum()))

    @property
    def replica_seconds(self) -> float:
        """Of all stages, from the request for a replica to its exit."""
        return float(self.billed[self.from_tick :].sum() * TICK_S)

    @property
    def turns_per_hour(self) -> float:
        """How often the restless stage's replicas change direction, per hour."""
        hours = (len(self.billed) - self.from_tick) * TICK_S / 3600
        turns = 0
        for column in self.billed[self.from_tick :].T:
            moves = np.sign(np.diff(column))
            moves = moves[moves != 0]
            turns = max(turns, int((moves[1:] != moves[:-1]).sum()))
        return turns / hours

    def recovery_s(self, onset_s: float) -> float:
        """Seconds after `onset_s` until no tick misses more than 1 % any more."""
        bad = np.nonzero(self.missed > 0.01 * np.maximum(self.arrived, 1))[0] * TICK_S
        bad = bad[bad >= onset_s]
        return float(bad.max() - onset_s + TICK_S) if len(bad) else 0.0


def simulate(
    trace: Trace, policy: Scaler, plant: Plant, seed: int, start: Mapping[str, int], warm_up_s: float = 60.0
) -> Run:
    """`start`: the replicas there are at first. `warm_up_s`: what happens before counts for nothing."""
    names = tuple(plant.specs)
    count, step_s = len(names), plant.step_s
    assert abs(trace.step_s - step_s) < 1e-9, "the trace was made for other steps"
    chance = np.random.default_rng(seed + 7919)
    world = _World(plant, names, chance)
    fleets = [_Fleet(start[name]) for name in names]
    per_tick = round(TICK_S / step_s)
    ticks = len(trace.counts) // per_tick
    keys = ("ready", "billed", "queue", "arrived", "missed", "shed", "degraded")
    history: dict[str, list[Any]] = {key: [] for key in keys}
    before = world.reports(0.0, names)
    for tick in range(ticks):
        now = tick * TICK_S
        seen = _observe(now, names, fleets, before)
        before = world.reports(now, names)
        wanted = policy.decide(seen)
        for index, name in enumerate(names):
            room = plant.placeable[name] if plant.placeable else 10**9
            fleets[index].follow(now, int(wanted.get(name, fleets[index].target)), room, plant, chance)
        ready = np.array([fleet.ready for fleet in fleets], dtype=np.int64)
        first = world.outcome.copy()
        world.advance(tick * per_tick, trace.counts[tick * per_tick : (tick + 1) * per_tick], ready)
        changed = world.outcome - first
        history["ready"].append(ready)
        history["billed"].append([fleet.billed for fleet in fleets])
        history["queue"].append(world.queue.sum())
        history["arrived"].append(changed[0])
        history["missed"].append(changed[2] + changed[3])
        history["shed"].append(changed[3])
        history["degraded"].append(changed[4])
    arrays = {key: np.array(values, dtype=np.float64) for key, values in history.items()}
    assert arrays["ready"].shape == (ticks, count)
    return Run(names, p99_s=world.p99_s(), from_tick=min(ticks - 1, round(warm_up_s / TICK_S)), **arrays)


class _Fleet:
    """The replicas of one stage: ready ones and those that start."""

    def __init__(self, ready: int) -> None:
        self.ready = self.target = ready
        self._starting: list[float] = []
        self._unplaced = 0

    @property
    def billed(self) -> int:
        return self.ready + len(self._starting)

    def follow(self, now: float, wanted: int, room: int, plant: Plant, chance: np.random.Generator) -> None:
        """What is due becomes ready; then the difference to `wanted` is asked for, or dropped, the youngest first."""
        self.ready += sum(at <= now for at in self._starting)
        self._starting = [at for at in self._starting if at > now]
        self.target = wanted
        placed = min(wanted, room)
        while self.billed > placed and self._starting:
            self._starting.pop()
        self.ready = min(self.ready, placed)
        for _ in range(placed - self.billed):
            self._starting.append(now + plant.startup_s * float(np.exp(chance.normal(0, plant.startup_spread))))


def _observe(
    now: float, names: tuple[str, ...], fleets: list[_Fleet], before: tuple[Report, dict[str, tuple[Report, float]]]
) -> Observation:
    root, stages = before
    return Observation(
        now,
        {"ingress": root},
        {
            name: StageObservation(fleet.ready, fleet.target, {"all": stages[name][0]}, stages[name][1])
            for name, fleet in zip(names, fleets, strict=True)
        },
    )


class _World:
    """The kernel's arrays; S stages, R steps that a request can be old, M steps that a batch can take."""

    def __init__(self, plant: Plant, names: tuple[str, ...], chance: np.random.Generator) -> None:
        self._chance = chance
        stages, self._longest = len(names), _LONGEST_BATCHES * STEPS_PER_SLO
        ring = STEPS_PER_SLO + self._longest + 2
        self._step_s, self._max_queue = plant.step_s, plant.max_queue
        self.queue = np.zeros((stages, ring), dtype=np.int64)
        self._finishing = np.zeros((stages, self._longest + 1, ring), dtype=np.int64)
        self._freeing = np.zeros((stages, self._longest + 1), dtype=np.int64)
        self._busy = np.zeros(stages, dtype=np.int64)
        self._totals = np.zeros((stages, len(Counters._fields)))
        self.outcome = np.zeros(5)  # arrived, answered in full, late or expired, shed, degraded
        self._latency = np.zeros(ring, dtype=np.int64)
        visits = plant.visits or {}
        self._slots = np.array([plant.specs[name].slots for name in names], dtype=np.int64)
        self._batch = np.array([plant.specs[name].max_batch for name in names], dtype=np.int64)
        self._line = np.array([[plant.lines[name].a, plant.lines[name].c] for name in names])
        self._visits = np.array([visits.get(name, 1.0) for name in names])
        full_s = [plant.lines[name].seconds(plant.specs[name].max_batch) for name in names]
        ahead = np.cumsum(full_s[::-1])[::-1]  # of full batches in this stage and those after it
        self._law, self._factor = numbers(plant.quality), np.ones(1)
        self._cut = np.array([plant.quality is not None and name in plant.quality.cut for name in names])
        self._skipped = np.array([plant.quality is not None and name in plant.quality.skipped for name in names])
        self._queue_less, self._finishing_less = np.zeros_like(self.queue), np.zeros_like(self._finishing)
        self._took = np.zeros(stages, dtype=np.int64)
        self._start_by = np.maximum(1, STEPS_PER_SLO - np.ceil(ahead / self._step_s)).astype(np.int64)

    def advance(self, first: int, counts: Any, ready: Any) -> None:
        """Runs the steps of `counts`; `first` is the first one's number."""
        _advance(
            first, counts, ready, self._slots, self._batch, self._line, self._visits, self._start_by, self._step_s,
            self._max_queue, self.queue, self._finishing, self._freeing, self._busy, self._totals, self.outcome,
            self._latency, self._chance, self._law, self._factor, self._cut, self._skipped, self._queue_less,
            self._finishing_less, self._took,
        )  # fmt: skip

    def reports(self, now: float, names: tuple[str, ...]) -> tuple[Report, dict[str, tuple[Report, float]]]:
        """(the ingress' report, per stage its report and the requests that are there)."""
        waiting = self.queue.sum(axis=1)
        running = self._finishing.sum(axis=(1, 2))
        stages = {
            name: (Report(now, Counters(*self._totals[i].tolist()), float(waiting[i])), float(waiting[i] + running[i]))
            for i, name in enumerate(names)
        }
        arrived, answered, late, shed, degraded = self.outcome.tolist()
        # As live: cut answers count as lost, or what a stage was spared would look as if nobody had asked.
        return Report(now, Counters(arrived, answered, late + degraded, shed)), stages

    def p99_s(self) -> float:
        """Of the answered requests' times."""
        total = np.cumsum(self._latency)
        return float(np.searchsorted(total, 0.99 * total[-1]) * self._step_s) if total[-1] else 0.0


@njit(cache=True)
def _advance(
    first: Any, counts: Any, ready: Any, slots: Any, max_batch: Any, line: Any, visits: Any, start_by: Any, step_s: Any,
    max_queue: Any, queue: Any, finishing: Any, freeing: Any, busy: Any, totals: Any, outcome: Any, latency: Any,
    chance: Any, law: Any, factor: Any, cut: Any, skipped: Any, queue_less: Any, finishing_less: Any, took: Any,
) -> None:  # fmt: skip
    """The steps of `counts`; arrays are changed in place. `…_less`: those among the requests that were cut; `took`:
    steps of each stage's latest batch."""
    stages, ring = queue.shape
    longest = freeing.shape[1] - 1
    oldest = STEPS_PER_SLO
    gives_way = law[3] > 0
    for offset in range(len(counts)):
        now = first + offset
        row, slot = now % (longest + 1), now % ring
        outcome[0] += counts[offset]
        entering = np.zeros(ring, dtype=np.int64)
        room = max_queue - queue[0].sum()
        shed = max(0, counts[offset] - room)
        outcome[3] += shed
        entering[slot] = counts[offset] - shed
        entering_less = np.zeros(ring, dtype=np.int64)
        factor[0] = min(1.0, factor[0] + law[3] * step_s)
        before = 0
        for s in range(stages):
            # 1. batches that end now: their requests go on to the next stage once this one's arrivals are in.
            leaving = finishing[s, row].copy()
            finishing[s, row, :] = 0
            leaving_less = finishing_less[s, row].copy()
            finishing_less[s, row, :] = 0
            busy[s] -= freeing[s, row]
            freeing[s, row] = 0
            # 2. what comes in: a part passes the stage by (cache hits), all of it while the stage is left out.
            for i in range(ring):
                n = entering[i]
                if n and skipped[s] and factor[0] < law[2]:
                    leaving[i] += n
                    leaving_less[i] += n
                    totals[s, 1] -= n  # not its answers
                elif n:
                    inside = n if visits[s] >= 1.0 else min(n, int(n * visits[s] + chance.random()))
                    queue[s, i] += inside
                    totals[s, 0] += inside
                    leaving[i] += n - inside
                    less = entering_less[i] * inside // n
                    queue_less[s, i] += less
                    leaving_less[i] += entering_less[i] - less
            # 3. what can't be answered in time any more.
            for age in range(start_by[s] + 1, oldest + 2):
                gone = (now - age) % ring
                if gives_way and age <= oldest and queue[s, gone] > 0:
                    own = min(factor[0], fitting(law, max(0, age - before) / oldest))
                    if age * step_s + ahead_s(law, own, s, line, max_batch, cut, skipped) <= oldest * step_s:
                        continue
                outcome[2] += queue[s, gone]
                totals[s, 2] += queue[s, gone]
                queue[s, gone] = 0
                queue_less[s, gone] = 0
            # 4. natural batching.
            waiting = 0
            for age in range(oldest + 1):
                waiting += queue[s, (now - age) % ring]
            free = ready[s] * slots[s] - busy[s]
            share = 1.0
            if gives_way and waiting > 0:
                if free > 0:
                    middle = _age_of(min(waiting, free * max_batch[s]) // 2, now, queue[s])
                    factor[0] = min(factor[0], fitting(law, max(0, middle - before) / oldest))
                    if factor[0] <= 0:
                        for age in range(before + int(np.ceil(law[1] * oldest)), oldest + 1):
                            i = (now - age) % ring
                            waiting -= queue[s, i]
                            outcome[4] += queue[s, i]
                            latency[age] += queue[s, i]
                            queue[s, i] = 0
                            queue_less[s, i] = 0
                share = share_of_work(law, factor[0], cut[s], skipped[s])
                if share <= 0:
                    leaving += queue[s]
                    leaving_less += queue[s]
                    totals[s, 1] -= waiting
                    queue[s, :] = 0
                    queue_less[s, :] = 0
                    waiting = 0
            if waiting > 0 and free > 0:
                size = min(max_batch[s], (waiting + free - 1) // free)
                used = min(free, (waiting + size - 1) // size)
                taken = min(waiting, used * size)
                seconds = (line[s, 0] + line[s, 1] * share * taken / used) * chance.standard_gamma(25.0) / 25.0
                steps = min(longest, max(1, int(seconds / step_s + chance.random())))
                end = (now + steps) % (longest + 1)
                took[s] = steps
                busy[s] += used
                freeing[s, end] += used
                totals[s, 4] += used * seconds
                totals[s, 5] += used
                totals[s, 6] += taken * share
                left = taken
                age = oldest
                while left > 0:
                    i = (now - age) % ring
                    n = min(left, queue[s, i])
                    if n > 0:
                        less = queue_less[s, i] * n // queue[s, i]
                        queue_less[s, i] -= less
                        finishing_less[s, end, i] += n if share < 1 else less
                    queue[s, i] -= n
                    finishing[s, end, i] += n
                    left -= n
                    age -= 1
            # 5. on to the next stage, unless too late.
            for i in range(ring):
                n = leaving[i]
                if n:
                    totals[s, 1] += n
                    age = (now - i) % ring
                    if age > oldest:
                        outcome[2] += n
                        leaving[i] = 0
                        leaving_less[i] = 0
                    elif s == stages - 1:
                        outcome[1] += n - leaving_less[i]
                        outcome[4] += leaving_less[i]
                        latency[age] += n
            entering, entering_less = leaving, leaving_less
            before += 0 if skipped[s] and factor[0] < law[2] else took[s]


@njit(cache=True)
def _age_of(rank: Any, now: Any, queue: Any) -> Any:
    """Steps since the arrival of the request before which so many wait; 0 if there is none."""
    age = STEPS_PER_SLO
    while age > 0 and queue[(now - age) % len(queue)] <= rank:
        rank -= queue[(now - age) % len(queue)]
        age -= 1
    return age
