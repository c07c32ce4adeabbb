"""The pipeline's side of a stage: `StageClient` calls it within a deadline, in this process or in another replica.

`local` starts calls in this process, `scattered` at the shards of a stage; `deployments.replicas.stage_replica.remote`
at the replicas of a deployment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deployments import timeouts
from deployments.errors import DeadlineExceeded, StageFailed, VersionMismatch
from deployments.messages import Batch
from deployments.pipeline.executor import StageExecutor

log = logging.getLogger("rayfunnel.stage")


Batches = tuple[Batch | None, ...]
Start = Callable[[float, Batches], Awaitable[Batch]]
"""Begins one call: (deadline in Unix seconds, inputs) → the stage's message."""


_MERGE_SHARE = 0.2
"""Share of the time left that is kept for merging the answers of a stage's shards."""


class StageClient:
    """Calls one stage, wherever it runs. Bounds the calls under way and abandons a call at its deadline.

    An abandoned call is not stopped (a thread or a remote method can't be), so it keeps its slot until it returns. When
    abandoned calls hold every slot, new calls fail at once instead of waiting for a stage that hangs.
    """

    def __init__(self, name: str, start: Start, slots: int) -> None:
        self.name = name
        self._start = start
        self._slots = slots
        self._free = asyncio.Semaphore(slots)
        self._abandoned: set[asyncio.Future[Batch]] = set()

    async def call(self, deadline: float, *batches: Batch | None) -> Any:
        """The stage's message for `batches`, before `deadline` (Unix seconds).

        Raises:
            StageFailed: with the reason `deadline`, `busy`, `timeout`, `version`, `lost` or `error`.
        """
        if deadline <= time.time():
            raise StageFailed(self.name, "deadline", "no time was left to start it")
        await self._slot(deadline)
        task = asyncio.ensure_future(self._start(deadline, batches))
        task.add_done_callback(self._ended)
        await asyncio.wait({task}, timeout=max(0.0, deadline - time.time()))
        if not task.done():
            await timeouts.catch_up()
        if not task.done():
            self._abandoned.add(task)
            raise StageFailed(self.name, "timeout", "it did not answer by its deadline")
        if task.cancelled():
            raise StageFailed(self.name, "lost", "the call was cancelled on its way")
        try:
            return task.result()
        except StageFailed:
            raise
        except DeadlineExceeded as error:
            raise StageFailed(self.name, "timeout", str(error)) from error
        except VersionMismatch as error:
            raise StageFailed(self.name, "version", str(error)) from error
        except Exception as error:
            log.exception("stage %s failed", self.name)
            raise StageFailed(self.name, "error", f"{type(error).__name__}: {error}") from error

    async def _slot(self, deadline: float) -> None:
        if not self._free.locked():
            await self._free.acquire()
            return
        if len(self._abandoned) >= self._slots:
            raise StageFailed(self.name, "busy", "every slot is held by an abandoned call")
        try:
            await asyncio.wait_for(self._free.acquire(), deadline - time.time())
        except TimeoutError as error:
            raise StageFailed(self.name, "busy", "no slot came free before the deadline") from error

    def _ended(self, task: asyncio.Future[Batch]) -> None:
        self._free.release()
        if task in self._abandoned:
            self._abandoned.discard(task)
            if not task.cancelled():
                task.exception()  # marks it as retrieved: no caller awaits it any more


def local(stage: Callable[..., Batch], slots: int) -> Start:
    """Runs `stage`, or a method of one, in this process: on `slots` threads, or on the event loop while calls are
    short."""
    executor = StageExecutor(ThreadPoolExecutor(slots))

    async def start(deadline: float, batches: Batches) -> Batch:
        return await executor.run(run_before, deadline, stage, batches)

    return start


def scattered(name: str, starts: Sequence[Start], gather: Callable[..., Batch], slots: int) -> Start:
    """Calls every shard at once, `slots` calls under way at each. `gather(*inputs, answers, number of shards)` merges
    the answers that have arrived when most of the time is over; it runs as `local` stages do.
    """
    clients = [
        StageClient(f"{name} {number + 1} of {len(starts)}", start, slots) for number, start in enumerate(starts)
    ]
    executor = StageExecutor(ThreadPoolExecutor(slots))

    async def start(deadline: float, batches: Batches) -> Batch:
        parts_by = deadline - _MERGE_SHARE * max(0.0, deadline - time.time())
        answers = await asyncio.gather(*(client.call(parts_by, *batches) for client in clients), return_exceptions=True)
        parts = [answer for answer in answers if isinstance(answer, Batch)]
        for answer in answers:
            if isinstance(answer, BaseException):
                log.warning("a shard gave no answer: %s", _reason(answer))
                if not parts:
                    raise answer
        return await executor.run(gather, *batches, parts, len(clients))

    return start


def _reason(error: BaseException) -> str:
    """The part of an error that may be logged: a stage's own text can name a user."""
    return f"{error.stage}: {error.reason}" if isinstance(error, StageFailed) else type(error).__name__


def run_before(deadline: float, stage: Callable[..., Batch], batches: Batches) -> Batch:
    """Calls `stage`, unless `deadline` (Unix seconds) has passed.

    Raises:
        DeadlineExceeded: the work was not started.
    """
    left_s = deadline - time.time()
    if left_s < 0:
        raise DeadlineExceeded(f"reached the stage {-left_s * 1e3:.0f} ms after its deadline and was not started")
    return stage(*batches)
