"""Natural batching: when a slot is free, whatever waits leaves at once; while all are busy, requests gather.

A lone request leaves at the end of the event-loop turn in which it came; under load batches grow by themselves to what
arrives during one service time, and several free slots share what waits. Order is first in, first out.

Callers that ask again once they are answered come back one after the other. The first would take the free slot alone,
for the price of a small batch, and so every time: half of all batches were single requests. So after a batch of several
the next one waits until as many have come, none came for `linger_ms`, or a quarter of that batch's time is over.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import Overloaded


class BatcherConfig(BaseModel):
    """Numbers of the batcher in each ingress replica."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_batch: int = Field(64, ge=1, le=1024, description="Most requests in one batch.")
    max_queue: int = Field(256, ge=1, description="Requests waiting at a time, past which the answer is 503, at once.")
    in_flight: int = Field(4, ge=1, le=64, description="Batches under way at a time.")
    linger_ms: float = Field(
        5.0, ge=0, le=100, description="Pause between arrivals after which an answered batch's callers are not awaited."
    )

    @property
    def at_once(self) -> int:
        """Requests under way at a time, when all batches are full."""
        return self.in_flight * self.max_batch


LONGEST_HOLD = 0.25
"""Of the time that the answered batch took."""
LEAST_SPLIT = 8
"""Requests that travel together even if there are slots for more batches."""


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
        self._linger_s = config.linger_ms / 1e3
        self._wanted = 0  # waiting requests that end a hold; 0: none is on
        self._until = self._latest = 0.0
        self._timer: asyncio.TimerHandle | None = None

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
        if self._wanted:
            self._latest = asyncio.get_running_loop().time()
            if len(self._queue) >= self._wanted:
                self._release()
        else:
            self._wake()

    def _wake(self) -> None:
        if self._free and not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._woken = False
        while self._free and (batch := self._next(max(LEAST_SPLIT, math.ceil(len(self._queue) / self._free)))):
            self._free -= 1
            task = asyncio.ensure_future(self._run(batch))
            self._tasks.add(task)
            began = asyncio.get_running_loop().time()
            task.add_done_callback(functools.partial(self._finished, len(batch), began))

    def _next(self, most: int) -> list[Request]:
        batch: list[Request] = []
        while self._queue and len(batch) < min(most, self._config.max_batch):
            request = self._queue.popleft()
            if not request.done:
                batch.append(request)
        return batch

    def _finished(self, size: int, began: float, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free += 1
        if not self._wanted:
            if self._linger_s and len(self._queue) < size > 1:
                self._hold(size, began)
            else:
                self._dispatch()
        if not task.cancelled():
            task.result()  # a bug in `run`: let the event loop report it

    def _hold(self, size: int, began: float) -> None:
        """Keeps what comes until the callers of the batch that has just been answered are back."""
        self._wanted = min(len(self._queue) + size, self._config.max_batch)
        self._latest = now = asyncio.get_running_loop().time()
        self._until = now + LONGEST_HOLD * (now - began)
        self._look(now)

    def _look(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - due > self._linger_s / 2:
            self._latest = now  # the loop was busy with the answers, and has not read what came meanwhile
        ends = min(self._latest + self._linger_s, self._until)
        if now >= ends:
            self._release()
        else:
            self._timer = loop.call_at(ends, self._look, ends)

    def _release(self) -> None:
        self._wanted = 0
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._wake()
