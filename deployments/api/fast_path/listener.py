"""Accepts all waiting connections in one turn of the event loop; uvloop accepts one.

uvloop does so since 0.18, because of libuv (libuv/libuv#3696). A turn of a busy ingress takes tens of milliseconds, so
connections waited for seconds before their first byte was read, and past the peak every answer came too late
(benchmarks/NOTES.md). asyncio's own loop accepts all of them (bpo-27906), but is slower at everything else.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

log = logging.getLogger("rayfunnel.ingress")

Factory = Callable[[], asyncio.Protocol]
"""Makes the protocol of a connection."""
Wrap = Callable[[Factory], Factory]

RETRY_S = 1.0
"""Pause after the system had no file descriptor or memory for a connection."""


def accept_all(loop: asyncio.AbstractEventLoop, wrap: Wrap = lambda factory: factory) -> None:
    """Changes the servers that `loop` creates from now on. On uvloop, on a socket and without TLS, they accept all
    waiting connections. `wrap`: makes another protocol factory of the server's own.
    """
    create_server: Any = loop.create_server
    on_uvloop = type(loop).__module__.startswith("uvloop")

    async def create(factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        factory, sock, backlog = wrap(factory), options.get("sock"), options.get("backlog", 100)
        if not on_uvloop or sock is None or options.get("ssl"):
            return await create_server(factory, host, port, **options)
        return _Listener(loop, factory, sock, backlog)

    loop.create_server = create  # type: ignore[method-assign, assignment]


class _Listener:
    """The part of asyncio's `Server` that uvicorn uses. It serves until it is closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: Factory,
        sock: socket.socket,
        backlog: int,
    ) -> None:
        self._loop, self._factory, self._sock, self._backlog = loop, factory, sock, backlog
        self._starting: set[asyncio.Task[Any]] = set()
        sock.setblocking(False)
        sock.listen(backlog)
        self._listen()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening socket, until it is closed."""
        return () if self._sock.fileno() < 0 else (self._sock,)

    def close(self) -> None:
        """Accepts no more connections; open ones stay."""
        if self.sockets:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    async def wait_closed(self) -> None:
        """Returns at once: uvicorn closes the connections."""

    def _listen(self) -> None:
        if self.sockets:
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(self._backlog):
            try:
                connection, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("no connection can be accepted, trying again in %g s: %s", RETRY_S, error)
                self._loop.remove_reader(self._sock.fileno())
                self._loop.call_later(RETRY_S, self._listen)
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._factory, connection))
            self._starting.add(task)
            task.add_done_callback(self._started)

    def _started(self, task: asyncio.Task[Any]) -> None:
        self._starting.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning("a connection was lost before it began: %s", error)
