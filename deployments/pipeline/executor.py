"""Where a stage's calls are computed: on threads, or on the event loop itself while they are short.

A thread costs a call two wake-ups, and the interpreter lock has to change hands each time; on busy cores that is more
than the work of a small batch (benchmarks/NOTES.md). Long calls must not keep the event loop from its sockets.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from time import monotonic
from typing import TypeVar

BRIEF_S = 0.02
"""None of the last `_LAST` calls that succeeded took longer where the next is computed on the event loop."""
_LAST = 5
HANG_S = 0.25
"""A call that took longer keeps all from the event loop for `_WARY_S`: it may have waited for something."""
_WARY_S = 60.0

T = TypeVar("T")


class StageExecutor:
    """Runs functions on `pool`, or on the event loop; `allowed=False`: always on `pool`.

    Of an event loop. What is run sees the caller's context, and may be called from several threads at once.
    """

    def __init__(self, pool: Executor, allowed: bool = True) -> None:
        self._pool = pool
        self._allowed = allowed
        self._took_s: deque[float] = deque(maxlen=_LAST)
        self._wary_until = float("-inf")

    @property
    def _short(self) -> bool:
        """Whether the next call is computed on the event loop. The first ones never are: nobody knows them."""
        known = len(self._took_s) == _LAST and max(self._took_s) <= BRIEF_S
        return self._allowed and known and monotonic() >= self._wary_until

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
            self._took_s.append(monotonic() - began)  # what fails, as past its deadline, says nothing about the work
            return answer
        finally:
            if (ended := monotonic()) - began > HANG_S:
                self._wary_until = ended + _WARY_S
