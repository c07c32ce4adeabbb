"""A stage's side of batching: calls that wait for the stage at the same time are computed as one batch.

Each caller sends batches of its own; a GPU wants large ones. As at the ingress nothing waits on purpose: a call that
finds the stage free is computed at once, and what gathers while it is busy goes together.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from typing import Any

from deployments.messages import Batch
from deployments.pipeline.batcher import Batcher, BatcherConfig
from deployments.pipeline.executor import StageExecutor
from deployments.pipeline.overload.service_time import ServiceTime
from deployments.pipeline.stage_client import run_before
from monitoring.logs.context import BatchLogContext, current_batch, log_context

Method = Callable[..., Batch]


@dataclass(eq=False, slots=True)
class _Call:
    method: Method
    deadline: float
    batches: tuple[Batch, ...]
    lines: BatchLogContext = field(default_factory=current_batch)
    """What those that are logged meanwhile belong to."""
    answer: asyncio.Future[Batch] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def done(self) -> bool:
        return self.answer.done()

    @property
    def rows(self) -> int:
        return len(self.batches[0])


class RequestCoalescer:
    """Runs a stage's methods, `slots` at a time, up to `max_rows` rows together: on `pool` or, if `slots` is 1 and
    calls are short, on the event loop.

    Rows are independent and padding does not matter (tests/contracts/), so a caller gets what it would have got alone.
    If the joined call fails, each is made alone, so that one bad batch fails only itself. A call that has less time
    left than calls have lately taken is not begun: it would come too late, and make those behind it late as well.
    """

    def __init__(self, pool: Executor, slots: int, max_rows: int) -> None:
        self._inline = StageExecutor(pool, allowed=slots == 1)
        self._max_rows = max_rows
        self._pace = ServiceTime()
        config = BatcherConfig(max_batch=64, max_queue=4096, in_flight=slots, linger_ms=0)
        self._batcher: Batcher[_Call] = Batcher(self._run, config)

    async def call(self, method: Method, deadline: float, batches: tuple[Batch, ...]) -> Batch:
        """`method(*batches)`. `deadline`: Unix seconds.

        Raises:
            DeadlineExceeded: it passed before the call's turn came, or would have before it ended.
        """
        call = _Call(method, deadline, batches)
        self._batcher.put(call)
        return await call.answer

    async def _run(self, calls: Sequence[_Call]) -> None:
        for group in _groups(calls, self._max_rows):
            answers = await self._inline.run(_compute, group, self._pace)
            for call, answer in zip(group, answers, strict=True):
                if call.done:
                    continue
                if isinstance(answer, Exception):
                    call.answer.set_exception(answer)
                else:
                    call.answer.set_result(answer)


def _groups(calls: Sequence[_Call], max_rows: int) -> list[list[_Call]]:
    """Calls of the same method, in order, none but a lone one over `max_rows`."""
    groups: list[list[_Call]] = []
    latest: dict[Method, list[_Call]] = {}
    for call in calls:
        group = latest.get(call.method)
        if group is None or sum(c.rows for c in group) + call.rows > max_rows:
            group = latest[call.method] = []
            groups.append(group)
        group.append(call)
    return groups


def _compute(group: Sequence[_Call], pace: ServiceTime) -> list[Batch | Exception]:
    began, now = time.monotonic(), time.time()
    needed_s = pace.needed_s(began)
    alive = [call for call in group if call.deadline >= now + needed_s]
    log_context.set(BatchLogContext.joined([call.lines for call in group]))
    joined: dict[int, Batch] = {}
    if len(alive) > 1:
        try:
            joined = _joined(alive)
        except Exception:
            joined = {}  # whose fault it is shows when each is run alone
    answers = [joined[id(call)] if id(call) in joined else _alone(call, needed_s) for call in group]
    if alive:
        pace.took(began, time.monotonic())
    return answers


def _joined(calls: Sequence[_Call]) -> dict[int, Batch]:
    columns: list[Any] = [type(parts[0]).concat(parts) for parts in zip(*(c.batches for c in calls), strict=True)]
    answer = calls[0].method(*columns)
    ends = list(itertools.accumulate(call.rows for call in calls))
    return {id(c): _own(answer, slice(end - c.rows, end), c.batches) for c, end in zip(calls, ends, strict=True)}


def _own(answer: Batch, rows: slice, inputs: Sequence[Batch]) -> Batch:
    """The rows of one call, as wide as its own inputs: a dimension that both have was padded to the widest call's."""
    widths = {
        letters[1]: getattr(batch, name).shape[1]
        for batch in inputs
        for name, letters in batch._columns()
        if letters[1:]
    }
    own = answer.take(rows)
    columns = {
        name: getattr(own, name)[:, : widths[letters[1]]]
        for name, letters in own._columns()
        if letters[1:] and letters[1] in widths
    }
    return replace(own, **columns)


def _alone(call: _Call, needed_s: float) -> Batch | Exception:
    try:
        return run_before(call.deadline, call.method, call.batches, needed_s)
    except Exception as error:
        return error
