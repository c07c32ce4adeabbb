"""Time limits for callers whose event loop may have been busy: what came in time is taken before it is given up.

A loop that was busy runs the timers that are due before it reads its sockets, and a reply passes some turns from there
to whom it is for. `asyncio.timeout` alone takes such a reply for one that is late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_TURNS = 5
"""Of the event loop, from a reply in the socket to whom it is for."""


async def catch_up() -> None:
    """Lets what is there be taken."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def timeout(seconds: float) -> AsyncIterator[None]:
    """`asyncio.timeout`, once the loop has caught up.

    Raises:
        TimeoutError: the body took longer.
    """
    loop = asyncio.get_running_loop()
    inside = True

    def expire(limit: asyncio.Timeout, turns: int) -> None:
        if inside and turns:
            loop.call_soon(expire, limit, turns - 1)
        elif inside:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        timer = loop.call_later(seconds, expire, limit, _TURNS)
        try:
            yield
        finally:
            inside = False
            timer.cancel()
