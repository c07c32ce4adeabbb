"""Natural batching: when a slot is free, whatever waits leaves at once; while all are busy, requests gather.

There is no wait time to tune. A lone request leaves at the end of the event-loop turn in which it came; under load
batches grow by themselves to what arrives during one service time. Order is first in, first out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import Overloaded


class BatcherConfig(BaseModel):
    """Numbers of the batcher in each ingress replica."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch: int = Field(64, ge=1, le=1024, description="Most requests in one batch.")
    max_queue: int = Field(1024, ge=1, description="Waiting requests past which the answer is 503, at once.")
    in_flight: int = Field(4, ge=1, le=64, description="Batches under way at a time.")


class Waiting(Protocol):
    """What the batcher asks of a request: whether it was answered while it waited (late, or given up)."""

    @property
    def done(self) -> bool: ...


Request = TypeVar("Request", bound=Waiting)


class Batcher(Generic[Request]):
    """Hands waiting requests to `run`, each exactly once, at most `in_flight` batches at a time.

    `run` must answer every request it is given; the batcher only decides who travels when. Requests that were answered
    while they waited are left out. Belongs to one event loop.
    """

    def __init__(self, run: Callable[[Sequence[Request]], Awaitable[None]], config: BatcherConfig) -> None:
        self._run = run
        self._config = config
        self._queue: deque[Request] = deque()
        self._free = config.in_flight
        self._woken = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Requests not yet in a batch (answered ones included until their turn comes)."""
        return len(self._queue)

    def put(self, request: Request) -> None:
        """Queues `request`.

        Raises:
            Overloaded: `max_queue` requests are waiting.
        """
        if len(self._queue) >= self._config.max_queue:
            self._queue = deque(r for r in self._queue if not r.done)
            if len(self._queue) >= self._config.max_queue:
                raise Overloaded(len(self._queue))
        self._queue.append(request)
        self._wake()

    def _wake(self) -> None:
        if self._free and not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._woken = False
        while self._free and (batch := self._next()):
            self._free -= 1
            task = asyncio.ensure_future(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._finished)

    def _next(self) -> list[Request]:
        batch: list[Request] = []
        while self._queue and len(batch) < self._config.max_batch:
            request = self._queue.popleft()
            if not request.done:
                batch.append(request)
        return batch

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free += 1
        self._dispatch()
        if not task.cancelled():
            task.result()  # a bug in `run`: let the event loop report it
