"""Connections that wait are accepted together, on the event loop that Ray runs replicas on."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
import uvloop

from deployments.api.fast_path import listener
from deployments.api.fast_path.listener import accept_all

WAITING = 200


def on_uvloop(test: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())  # type: ignore[arg-type]


class Greeter(asyncio.Protocol):
    made = 0

    def connection_made(self, transport: Any) -> None:
        Greeter.made += 1
        transport.write(b"welcome")


def listening() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


async def turns_to_accept(sock: socket.socket) -> int:
    """Turns of the event loop until all that wait have been accepted."""
    Greeter.made = turns = 0
    clients = [socket.create_connection(sock.getsockname()) for _ in range(WAITING)]
    while Greeter.made < WAITING:
        await asyncio.sleep(0)
        turns += 1
    for client in clients:
        assert client.recv(100) == b"welcome"
        client.close()
    return turns


def test_all_connections_that_wait_are_accepted_in_a_few_turns_of_the_loop() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        plain = await loop.create_server(Greeter, sock=(sock := listening()), backlog=WAITING)
        before = await turns_to_accept(sock)
        plain.close()
        accept_all(loop)
        server = await loop.create_server(Greeter, sock=(sock := listening()), backlog=WAITING)
        assert await turns_to_accept(sock) < 10 < before
        server.close()
        server.close()
        await server.wait_closed()
        assert server.sockets == ()
        assert sock.fileno() < 0

    on_uvloop(test)


def test_uvicorn_serves_on_it_and_ends_in_order() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def test() -> None:
        accept_all(asyncio.get_running_loop())
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        sock = listening()
        address = sock.getsockname()
        serving = asyncio.ensure_future(server.serve(sockets=[sock]))
        async with asyncio.timeout(10):
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).endswith(b"ok")
            writer.close()
        server.should_exit = True
        await serving
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)

    on_uvloop(test)


def test_without_file_descriptors_it_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "RETRY_S", 0.05)
    calls = []

    class Short(socket.socket):
        def accept(self) -> Any:
            calls.append(1)
            if len(calls) == 1:
                raise OSError(errno.EMFILE, "too many open files")
            return super().accept()

    async def test() -> None:
        loop = asyncio.get_running_loop()
        accept_all(loop)
        sock = Short()
        sock.bind(("127.0.0.1", 0))
        server = await loop.create_server(Greeter, sock=sock)
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        assert await reader.read(7) == b"welcome"
        writer.close()
        server.close()

    on_uvloop(test)


async def test_loops_of_asyncio_and_servers_without_a_socket_stay_as_they_are() -> None:
    accept_all(asyncio.get_running_loop())
    server = await asyncio.get_running_loop().create_server(Greeter, sock=listening())
    assert isinstance(server, asyncio.Server)
    server.close()

    async def test() -> None:
        accept_all(asyncio.get_running_loop())
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        assert server.sockets
        server.close()

    await asyncio.to_thread(on_uvloop, test)
