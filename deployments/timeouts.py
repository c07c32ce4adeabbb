"""Timeouts that do not drop a reply that arrived in time while the event loop was busy.

After a busy phase the event loop runs due timers before it reads its sockets, and a reply then needs some iterations to
reach its caller. `asyncio.timeout` alone would treat such a reply as late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_ITERATIONS = 5
"""Iterations of the event loop from a reply in the socket to its caller."""


async def catch_up() -> None:
    """Lets the event loop deliver the replies that have arrived."""
    for _ in range(_ITERATIONS):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def timeout(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout`, which expires only after the event loop has caught up.

    Raises:
        TimeoutError: the body took longer.
    """
    loop = asyncio.get_running_loop()
    inside = True

    def expire(limit: asyncio.Timeout, iterations: int) -> None:
        if inside and iterations:
            loop.call_soon(expire, limit, iterations - 1)
        elif inside:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        timer = loop.call_later(seconds, expire, limit, _ITERATIONS)
        try:
            yield
        finally:
            inside = False
            timer.cancel()
