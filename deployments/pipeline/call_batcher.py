"""Batching in a stage replica: calls that wait for the stage at the same time are computed as one batch.

Each ingress replica sends batches of its own; a GPU wants large ones. A call that finds the stage free is computed at
once; the calls that gather while it is busy are joined. Serve's `max_ongoing_requests` bounds how many wait.
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
from deployments.pipeline.batcher import Batcher
from deployments.pipeline.executor import StageExecutor
from deployments.pipeline.stage_client import run_before
from monitoring.logs.context import BatchLogContext, current_batch, log_context

Method = Callable[..., Batch]

MOST_CALLS = 64
"""Calls that are taken from the queue at a time; `max_rows` then bounds each group."""


@dataclass(eq=False, slots=True)
class _Call:
    method: Method
    deadline: float
    batches: tuple[Batch, ...]
    lines: BatchLogContext = field(default_factory=current_batch)
    """The ids that log lines about this call carry."""
    answer: asyncio.Future[Batch] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def done(self) -> bool:
        return self.answer.done()

    @property
    def rows(self) -> int:
        return len(self.batches[0])


class CallBatcher:
    """Runs a stage's methods, `slots` at a time, with up to `max_rows` rows together: on `pool` or, if `slots` is 1 and
    calls are short, on the event loop.

    Rows are independent and padding does not matter (tests/contracts/), so every caller gets the answer that it would
    get alone. If a joined call fails, each call is made alone, so that one bad batch fails only itself. A call whose
    deadline has passed is not started.
    """

    def __init__(self, pool: Executor, slots: int, max_rows: int) -> None:
        self._executor = StageExecutor(pool, on_loop=slots == 1)
        self._max_rows = max_rows
        self._batcher: Batcher[_Call] = Batcher(self._run, max_batch=MOST_CALLS, in_flight=slots)

    async def call(self, method: Method, deadline: float, batches: tuple[Batch, ...]) -> Batch:
        """`method(*batches)`. `deadline`: Unix seconds.

        Raises:
            DeadlineExceeded: it passed before the call's turn came.
        """
        call = _Call(method, deadline, batches)
        self._batcher.put(call)
        return await call.answer

    async def _run(self, calls: Sequence[_Call]) -> None:
        for group in _groups(calls, self._max_rows):
            answers = await self._executor.run(_compute, group)
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


def _compute(group: Sequence[_Call]) -> list[Batch | Exception]:
    now = time.time()
    in_time = [call for call in group if call.deadline >= now]
    log_context.set(BatchLogContext.joined([call.lines for call in group]))
    joined: dict[int, Batch] = {}
    if len(in_time) > 1:
        try:
            joined = _joined(in_time)
        except Exception:
            joined = {}  # the call at fault fails when each is made alone
    return [joined[id(call)] if id(call) in joined else _alone(call) for call in group]


def _joined(calls: Sequence[_Call]) -> dict[int, Batch]:
    columns: list[Any] = [type(parts[0]).concat(parts) for parts in zip(*(c.batches for c in calls), strict=True)]
    answer = calls[0].method(*columns)
    ends = list(itertools.accumulate(call.rows for call in calls))
    return {id(c): _own(answer, slice(end - c.rows, end), c.batches) for c, end in zip(calls, ends, strict=True)}


def _own(answer: Batch, rows: slice, inputs: Sequence[Batch]) -> Batch:
    """The rows of one call, as wide as its own inputs: the joined call padded them to the widest call's."""
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


def _alone(call: _Call) -> Batch | Exception:
    try:
        return run_before(call.deadline, call.method, call.batches)
    except Exception as error:
        return error
