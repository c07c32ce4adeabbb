"""The compiled step: requests move through queues and batches, stage by stage. `FunnelState` holds its arrays.

Requests are counted by the step in which they arrived. When slots are free, all queued requests leave at once, spread
over the slots (natural batching), up to `max_batch` each. A batch of b takes s(b) with gamma noise. A stage does not
begin what full batches in it and after it could not finish before the deadline. Past `max_queue` a request is shed.

With a quality law, a request's wait is its age less the time of the stages before its queue. The median of what leaves
a queue sets the factor; the queue with the longest wait decides. A batch is cut when it begins in a stage. At factor 0
the fallback answers at once whatever has waited `to_wait`.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numba import njit

from cluster import quality_law
from cluster.autoscaling.observations import Counters, Report
from cluster.simulator.funnel import STEPS_PER_SLO, QualityLaw, SimulatedFunnel

Reports = tuple[Report, dict[str, tuple[Report, float]]]
"""The ingress' report; per stage its report and the number of its requests, queued and in batches."""
_LONGEST_BATCHES = 2
"""No batch takes longer than so many objectives."""

factor_at: Any = njit(quality_law.factor_at)
recovered: Any = njit(quality_law.recovered)
work_share: Any = njit(quality_law.work_share)
"""The functions that serve, compiled."""


class FunnelState:
    """The step's arrays: S stages, R steps that a request can be old, M steps that a batch can take.

    `queue` [S, R]; `outcome`: requests so far that arrived, were answered in full, expired, were shed, were degraded.
    """

    def __init__(self, funnel: SimulatedFunnel, names: tuple[str, ...], rng: np.random.Generator) -> None:
        self._rng = rng
        stages, self._longest = len(names), _LONGEST_BATCHES * STEPS_PER_SLO
        ring = STEPS_PER_SLO + self._longest + 2
        self._step_s, self._max_queue = funnel.step_s, funnel.max_queue
        self.queue = np.zeros((stages, ring), dtype=np.int64)
        self._finishing = np.zeros((stages, self._longest + 1, ring), dtype=np.int64)
        self._freeing = np.zeros((stages, self._longest + 1), dtype=np.int64)
        self._busy = np.zeros(stages, dtype=np.int64)
        self._totals = np.zeros((stages, len(Counters._fields)))
        self.outcome = np.zeros(5)
        self._latencies = np.zeros(ring, dtype=np.int64)
        visits, quality = funnel.visits or {}, funnel.quality
        self._slots = np.array([funnel.specs[name].slots for name in names], dtype=np.int64)
        self._max_batch = np.array([funnel.specs[name].max_batch for name in names], dtype=np.int64)
        self._lines = np.array([[funnel.lines[name].a, funnel.lines[name].c] for name in names])
        self._visits = np.array([visits.get(name, 1.0) for name in names])
        full_s = [funnel.lines[name].seconds(funnel.specs[name].max_batch) for name in names]
        remaining_s = np.cumsum(full_s[::-1])[::-1]  # of full batches in this stage and those after it
        self._latest_start = np.maximum(1, STEPS_PER_SLO - np.ceil(remaining_s / self._step_s)).astype(np.int64)
        self._law, self._factor = _numbers(quality), np.ones(1)
        self._cut = np.array([quality is not None and name in quality.cut for name in names])
        self._skipped = np.array([quality is not None and name in quality.skipped for name in names])
        self._queue_cut, self._finishing_cut = np.zeros_like(self.queue), np.zeros_like(self._finishing)
        self._batch_steps = np.zeros(stages, dtype=np.int64)

    def advance(self, first: int, counts: Any, ready: Any) -> None:
        """Runs one step per entry of `counts` (arrivals). `first`: number of the first step; `ready`: replicas [S]."""
        _advance(
            first, counts, ready, self._slots, self._max_batch, self._lines, self._visits, self._latest_start,
            self._step_s, self._max_queue, self.queue, self._finishing, self._freeing, self._busy, self._totals,
            self.outcome, self._latencies, self._rng, self._law, self._factor, self._cut, self._skipped,
            self._queue_cut, self._finishing_cut, self._batch_steps,
        )  # fmt: skip

    def reports(self, now: float, names: tuple[str, ...]) -> Reports:
        """What the ingress and the stages report at `now`."""
        waiting = self.queue.sum(axis=1)
        running = self._finishing.sum(axis=(1, 2))
        stages = {
            name: (Report(now, Counters(*self._totals[i].tolist()), float(waiting[i])), float(waiting[i] + running[i]))
            for i, name in enumerate(names)
        }
        arrived, full, expired, shed, degraded = self.outcome.tolist()
        # As live: degraded answers count as lost demand; otherwise the policy reads skipped work as low traffic.
        return Report(now, Counters(arrived, full, expired + degraded, shed)), stages

    def p99_s(self) -> float:
        """Of the answered requests' times."""
        total = np.cumsum(self._latencies)
        return float(np.searchsorted(total, 0.99 * total[-1]) * self._step_s) if total[-1] else 0.0


def _numbers(quality: QualityLaw | None) -> Any:
    """[from_wait, to_wait, floor, recovery_per_s]; all zero without a quality law."""
    if quality is None:
        return np.zeros(4)
    return np.array([quality.from_wait, quality.to_wait, quality.floor, quality.recovery_per_s])


@njit
def _remaining_s(law: Any, factor: float, first: int, lines: Any, max_batch: Any, cut: Any, skipped: Any) -> float:
    """Seconds of full batches from stage `first` on; at factor 0 the fallback answers, in no time."""
    seconds = 0.0
    if factor > 0:
        for s in range(first, len(max_batch)):
            share = work_share(factor, law[2], cut[s], skipped[s])
            if share > 0:
                seconds += lines[s, 0] + lines[s, 1] * max_batch[s] * share
    return seconds


@njit
def _age_of(rank: Any, now: Any, queue: Any) -> Any:
    """Steps since the arrival of the request with `rank` older ones in the queue; 0 if there is none."""
    age = STEPS_PER_SLO
    while age > 0 and queue[(now - age) % len(queue)] <= rank:
        rank -= queue[(now - age) % len(queue)]
        age -= 1
    return age


@njit
def _steps(
    first: Any, counts: Any, ready: Any, slots: Any, max_batch: Any, lines: Any, visits: Any, latest_start: Any,
    step_s: Any, max_queue: Any, queue: Any, finishing: Any, freeing: Any, busy: Any, totals: Any, outcome: Any,
    latencies: Any, rng: Any, law: Any, factor: Any, cut: Any, skipped: Any, queue_cut: Any, finishing_cut: Any,
    batch_steps: Any,
) -> None:  # fmt: skip
    """One step per entry of `counts`; arrays are changed in place. `…_cut`: how many of the requests were cut;
    `batch_steps`: steps of each stage's latest batch."""
    stages, ring = queue.shape
    longest = freeing.shape[1] - 1
    oldest = STEPS_PER_SLO
    cuts_quality = law[3] > 0
    for offset in range(len(counts)):
        now = first + offset
        row, slot = now % (longest + 1), now % ring
        outcome[0] += counts[offset]
        entering = np.zeros(ring, dtype=np.int64)
        room = max_queue - queue[0].sum()
        shed = max(0, counts[offset] - room)
        outcome[3] += shed
        entering[slot] = counts[offset] - shed
        entering_cut = np.zeros(ring, dtype=np.int64)
        factor[0] = recovered(factor[0], step_s, law[3])
        before = 0
        for s in range(stages):
            # 1. Batches that end now: their requests go on to the next stage once this stage's arrivals are in.
            leaving = finishing[s, row].copy()
            finishing[s, row, :] = 0
            leaving_cut = finishing_cut[s, row].copy()
            finishing_cut[s, row, :] = 0
            busy[s] -= freeing[s, row]
            freeing[s, row] = 0
            # 2. Arrivals: a share bypasses the stage (cache hits), all of them while the stage is skipped.
            for i in range(ring):
                n = entering[i]
                if n and skipped[s] and factor[0] < law[2]:
                    leaving[i] += n
                    leaving_cut[i] += n
                    totals[s, 1] -= n  # not completed by this stage
                elif n:
                    inside = n if visits[s] >= 1.0 else min(n, int(n * visits[s] + rng.random()))
                    queue[s, i] += inside
                    totals[s, 0] += inside
                    leaving[i] += n - inside
                    inside_cut = entering_cut[i] * inside // n
                    queue_cut[s, i] += inside_cut
                    leaving_cut[i] += entering_cut[i] - inside_cut
            # 3. Requests that can't be answered in time any more.
            for age in range(latest_start[s] + 1, oldest + 2):
                i = (now - age) % ring
                if cuts_quality and age <= oldest and queue[s, i] > 0:
                    own = min(factor[0], factor_at(max(0, age - before) / oldest, law[0], law[1]))
                    if age * step_s + _remaining_s(law, own, s, lines, max_batch, cut, skipped) <= oldest * step_s:
                        continue
                outcome[2] += queue[s, i]
                totals[s, 2] += queue[s, i]
                queue[s, i] = 0
                queue_cut[s, i] = 0
            # 4. Natural batching.
            waiting = 0
            for age in range(oldest + 1):
                waiting += queue[s, (now - age) % ring]
            free = ready[s] * slots[s] - busy[s]
            share = 1.0
            if cuts_quality and waiting > 0:
                if free > 0:
                    median = _age_of(min(waiting, free * max_batch[s]) // 2, now, queue[s])
                    factor[0] = min(factor[0], factor_at(max(0, median - before) / oldest, law[0], law[1]))
                    if factor[0] <= 0:
                        for age in range(before + int(np.ceil(law[1] * oldest)), oldest + 1):
                            i = (now - age) % ring
                            waiting -= queue[s, i]
                            outcome[4] += queue[s, i]
                            latencies[age] += queue[s, i]
                            queue[s, i] = 0
                            queue_cut[s, i] = 0
                share = work_share(factor[0], law[2], cut[s], skipped[s])
                if share <= 0:
                    leaving += queue[s]
                    leaving_cut += queue[s]
                    totals[s, 1] -= waiting
                    queue[s, :] = 0
                    queue_cut[s, :] = 0
                    waiting = 0
            if waiting > 0 and free > 0:
                size = min(max_batch[s], (waiting + free - 1) // free)
                used = min(free, (waiting + size - 1) // size)
                taken = min(waiting, used * size)
                seconds = (lines[s, 0] + lines[s, 1] * share * taken / used) * rng.standard_gamma(25.0) / 25.0
                steps = min(longest, max(1, int(seconds / step_s + rng.random())))
                end = (now + steps) % (longest + 1)
                batch_steps[s] = steps
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
                        taken_cut = queue_cut[s, i] * n // queue[s, i]
                        queue_cut[s, i] -= taken_cut
                        finishing_cut[s, end, i] += n if share < 1 else taken_cut
                    queue[s, i] -= n
                    finishing[s, end, i] += n
                    left -= n
                    age -= 1
            # 5. On to the next stage, unless the deadline has passed.
            for i in range(ring):
                n = leaving[i]
                if n:
                    totals[s, 1] += n
                    age = (now - i) % ring
                    if age > oldest:
                        outcome[2] += n
                        leaving[i] = 0
                        leaving_cut[i] = 0
                    elif s == stages - 1:
                        outcome[1] += n - leaving_cut[i]
                        outcome[4] += leaving_cut[i]
                        latencies[age] += n
            entering, entering_cut = leaving, leaving_cut
            before += 0 if skipped[s] and factor[0] < law[2] else batch_steps[s]


def _cached(law: str) -> Any:
    """`_steps`, compiled once per machine. `law`: source of the quality law. numba's cache notices changes of this file
    alone, but its key includes the values that a function closes over: so a changed law is compiled anew."""

    @njit(cache=True)
    def advance(*args: Any) -> None:
        len(law)
        _steps(*args)

    return advance


_advance = _cached(inspect.getsource(quality_law))
