"""Natural batching: when a slot is free, whatever waits leaves at once; while all are busy, requests gather.

A lone request leaves at the end of the event-loop turn in which it came; under load batches grow by themselves to what
arrives during one service time, and several free slots share what waits. Order is first in, first out.

Clients that ask again once they are answered come back one after the other. The first one would take the free slot
alone; half of all batches were single requests. So after a batch of several requests the next batch waits. It leaves
when as many requests have arrived, when none has arrived for `linger_ms`, or after a quarter of the last batch's time.
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

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    max_batch: int = Field(64, ge=1, le=1024)
    """Most requests in one batch."""
    max_queue: int = Field(256, ge=1)
    """Most requests that wait in an ingress replica. Past it the answer is 503 with Retry-After."""
    in_flight: int = Field(4, ge=1, le=64)
    """Batches under way at a time: about the number of cores, and 1 where all stages run in the ingress and it has one
    core. More in flight makes batches smaller."""
    linger_ms: float = Field(5.0, ge=0, le=100)
    """After a batch was answered, the next one waits for the answered callers. It leaves when none came for this long.
    0: it never waits."""

    @property
    def most_in_flight(self) -> int:
        """Requests in flight when all batches are full."""
        return self.in_flight * self.max_batch

    @property
    def most_under_way(self) -> int:
        """Requests in flight and in the queue when both are full."""
        return self.max_queue + self.most_in_flight


LONGEST_LINGER = 0.25
"""Share of the answered batch's time that the next batch waits at most."""
LEAST_SPLIT = 8
"""Requests that travel together even if there are slots for more batches."""


class Queued(Protocol):
    """A request in the queue. `done`: whether it was answered while it waited (late, or its caller has gone)."""

    @property
    def done(self) -> bool: ...


Request = TypeVar("Request", bound=Queued)


class Batcher(Generic[Request]):
    """Gives waiting requests to `run`, each exactly once, at most `in_flight` batches of `max_batch` requests at a
    time.

    `run` must answer every request it is given. Requests that were answered while they waited are left out. Belongs to
    one event loop.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Request]], Awaitable[None]],
        max_batch: int,
        in_flight: int,
        max_queue: float = math.inf,
        linger_s: float = 0.0,
    ) -> None:
        self._run = run
        self._max_batch, self._max_queue = max_batch, max_queue
        self._queue: deque[Request] = deque()
        self._free = in_flight
        self._woken = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._linger_s = linger_s
        self._linger_target = 0  # waiting requests that end the pause; 0: there is none
        self._linger_until = self._last_arrival = 0.0
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
        if len(self._queue) >= self._max_queue:
            self._queue = deque(r for r in self._queue if not r.done)
            if len(self._queue) >= self._max_queue:
                raise Overloaded(f"{len(self._queue)} requests are waiting already; retry later, or add replicas")
        self._queue.append(request)
        if self._linger_target:
            self._last_arrival = asyncio.get_running_loop().time()
            if len(self._queue) >= self._linger_target:
                self._end_linger()
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
        while self._queue and len(batch) < min(most, self._max_batch):
            request = self._queue.popleft()
            if not request.done:
                batch.append(request)
        return batch

    def _finished(self, size: int, began: float, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free += 1
        if not self._linger_target:
            if self._linger_s and len(self._queue) < size > 1:
                self._linger(size, began)
            else:
                self._dispatch()
        if not task.cancelled():
            task.result()  # a bug in `run`: let the event loop report it

    def _linger(self, size: int, began: float) -> None:
        """Waits for the callers of the batch that has just been answered."""
        self._linger_target = min(len(self._queue) + size, self._max_batch)
        self._last_arrival = now = asyncio.get_running_loop().time()
        self._linger_until = now + LONGEST_LINGER * (now - began)
        self._check_linger(now)

    def _check_linger(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - due > self._linger_s / 2:
            self._last_arrival = now  # the loop was busy with the answers, and has not read its sockets meanwhile
        ends = min(self._last_arrival + self._linger_s, self._linger_until)
        if now >= ends:
            self._end_linger()
        else:
            self._timer = loop.call_at(ends, self._check_linger, ends)

    def _end_linger(self) -> None:
        self._linger_target = 0
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._wake()
