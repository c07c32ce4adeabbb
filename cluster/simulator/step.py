"""The compiled step: requests move through queues and batches, stage by stage. `FunnelState` holds its arrays.

Requests are counted by the step in which they arrived. When slots are free, all queued requests leave at once, spread
over the slots (natural batching), up to `max_batch` each. A batch of b takes s(b) with gamma noise. A stage does not
begin what full batches in it and after it could not finish before the deadline. Past `max_queue` a request is shed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from cluster.autoscaling.observations import Counters, Report
from cluster.simulator.funnel import STEPS_PER_SLO, SimulatedFunnel

Reports = tuple[Report, dict[str, tuple[Report, float]]]
"""The ingress' report; per stage its report and the number of its requests, queued and in batches."""
_LONGEST_BATCHES = 2
"""No batch takes longer than so many objectives."""


class FunnelState:
    """The step's arrays: S stages, R steps that a request can be old, M steps that a batch can take.

    `queue` [S, R]; `outcome`: requests so far that arrived, were answered, expired, were shed.
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
        self.outcome = np.zeros(4)
        self._latencies = np.zeros(ring, dtype=np.int64)
        visits = funnel.visits or {}
        self._slots = np.array([funnel.specs[name].slots for name in names], dtype=np.int64)
        self._max_batch = np.array([funnel.specs[name].max_batch for name in names], dtype=np.int64)
        self._lines = np.array([[funnel.lines[name].a, funnel.lines[name].c] for name in names])
        self._visits = np.array([visits.get(name, 1.0) for name in names])
        full_s = [funnel.lines[name].seconds(funnel.specs[name].max_batch) for name in names]
        remaining_s = np.cumsum(full_s[::-1])[::-1]  # of full batches in this stage and those after it
        self._latest_start = np.maximum(1, STEPS_PER_SLO - np.ceil(remaining_s / self._step_s)).astype(np.int64)

    def advance(self, first: int, counts: Any, ready: Any) -> None:
        """Runs one step per entry of `counts` (arrivals). `first`: number of the first step; `ready`: replicas [S]."""
        _advance(
            first, counts, ready, self._slots, self._max_batch, self._lines, self._visits, self._latest_start,
            self._step_s, self._max_queue, self.queue, self._finishing, self._freeing, self._busy, self._totals,
            self.outcome, self._latencies, self._rng,
        )  # fmt: skip

    def reports(self, now: float, names: tuple[str, ...]) -> Reports:
        """What the ingress and the stages report at `now`."""
        waiting = self.queue.sum(axis=1)
        running = self._finishing.sum(axis=(1, 2))
        stages = {
            name: (Report(now, Counters(*self._totals[i].tolist()), float(waiting[i])), float(waiting[i] + running[i]))
            for i, name in enumerate(names)
        }
        return Report(now, Counters(*self.outcome.tolist())), stages

    def p99_s(self) -> float:
        """Of the answered requests' times."""
        total = np.cumsum(self._latencies)
        return float(np.searchsorted(total, 0.99 * total[-1]) * self._step_s) if total[-1] else 0.0


@njit(cache=True)
def _advance(
    first: Any, counts: Any, ready: Any, slots: Any, max_batch: Any, lines: Any, visits: Any, latest_start: Any,
    step_s: Any, max_queue: Any, queue: Any, finishing: Any, freeing: Any, busy: Any, totals: Any, outcome: Any,
    latencies: Any, rng: Any,
) -> None:  # fmt: skip
    """One step per entry of `counts`; arrays are changed in place."""
    stages, ring = queue.shape
    longest = freeing.shape[1] - 1
    oldest = STEPS_PER_SLO
    for offset in range(len(counts)):
        now = first + offset
        row, slot = now % (longest + 1), now % ring
        outcome[0] += counts[offset]
        entering = np.zeros(ring, dtype=np.int64)
        room = max_queue - queue[0].sum()
        shed = max(0, counts[offset] - room)
        outcome[3] += shed
        entering[slot] = counts[offset] - shed
        for s in range(stages):
            # 1. Batches that end now: their requests go on to the next stage once this stage's arrivals are in.
            leaving = finishing[s, row].copy()
            finishing[s, row, :] = 0
            busy[s] -= freeing[s, row]
            freeing[s, row] = 0
            # 2. Arrivals: a share bypasses the stage (cache hits).
            for i in range(ring):
                n = entering[i]
                if n:
                    inside = n if visits[s] >= 1.0 else min(n, int(n * visits[s] + rng.random()))
                    queue[s, i] += inside
                    totals[s, 0] += inside
                    leaving[i] += n - inside
            # 3. Requests that can't be answered in time any more.
            for age in range(latest_start[s] + 1, oldest + 2):
                i = (now - age) % ring
                outcome[2] += queue[s, i]
                totals[s, 2] += queue[s, i]
                queue[s, i] = 0
            # 4. Natural batching.
            waiting = 0
            for age in range(oldest + 1):
                waiting += queue[s, (now - age) % ring]
            free = ready[s] * slots[s] - busy[s]
            if waiting > 0 and free > 0:
                size = min(max_batch[s], (waiting + free - 1) // free)
                used = min(free, (waiting + size - 1) // size)
                taken = min(waiting, used * size)
                seconds = (lines[s, 0] + lines[s, 1] * taken / used) * rng.standard_gamma(25.0) / 25.0
                steps = min(longest, max(1, int(seconds / step_s + rng.random())))
                end = (now + steps) % (longest + 1)
                busy[s] += used
                freeing[s, end] += used
                totals[s, 4] += used * seconds
                totals[s, 5] += used
                totals[s, 6] += taken
                left = taken
                age = oldest
                while left > 0:
                    i = (now - age) % ring
                    n = min(left, queue[s, i])
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
                    elif s == stages - 1:
                        outcome[1] += n
                        latencies[age] += n
            entering = leaving
