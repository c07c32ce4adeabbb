"""Runs a stage's calls on threads, or on the event loop itself while they are short.

A thread costs a call two wake-ups and two changes of the interpreter lock; on busy cores that is more than the work of
a small batch (benchmarks/NOTES.md). A long call must not block the event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from time import monotonic
from typing import TypeVar

SHORT_S = 0.02
"""A call runs on the event loop if none of the last `_LATEST` successful calls took longer."""
_LATEST = 5
BLOCKED_S = 0.25
"""A call that took longer may have waited for something: for `_THREADS_ONLY_S` all calls run on threads."""
_THREADS_ONLY_S = 60.0

T = TypeVar("T")


class StageExecutor:
    """Runs functions on `pool`, or on the event loop; `on_loop=False`: always on `pool`.

    Belongs to one event loop. A function sees the caller's context; several threads may call it at once.
    """

    def __init__(self, pool: Executor, on_loop: bool = True) -> None:
        self._pool = pool
        self._on_loop = on_loop
        self._durations_s: deque[float] = deque(maxlen=_LATEST)
        self._threads_only_until = float("-inf")

    @property
    def _short(self) -> bool:
        """Whether the next call runs on the event loop. The first ones never do: their duration is not known."""
        known = len(self._durations_s) == _LATEST and max(self._durations_s) <= SHORT_S
        return self._on_loop and known and monotonic() >= self._threads_only_until

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """`function(*args)`."""
        run = contextvars.copy_context().run
        if self._short:
            return run(self._timed, function, *args)
        return await asyncio.get_running_loop().run_in_executor(self._pool, run, self._timed, function, *args)

    def _timed(self, function: Callable[..., T], *args: object) -> T:
        began = monotonic()
        try:
            answer = function(*args)
            self._durations_s.append(monotonic() - began)  # a failure, as past a deadline, says nothing about the work
            return answer
        finally:
            if (ended := monotonic()) - began > BLOCKED_S:
                self._threads_only_until = ended + _THREADS_ONLY_S
