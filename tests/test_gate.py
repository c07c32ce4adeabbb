"""A real uvicorn behind the gate: what is refused without it, what it still sees, and what is left afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import uvicorn
import uvloop

from deployments.accepting import accept_all
from deployments.flow import came_at
from deployments.gate import Gate
from tests.test_accepting import listening

BODY = b'{"user_id": "u1"}'
HEAD = b"POST /shop/v1/recommend HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)
ASK = HEAD + BODY
GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Funnel:
    """An app that answers a POST once it may, and what the gate tells it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.refusals: list[str] = []
        self.asked = 0
        self.arrivals: list[float] = []
        self.may_answer = asyncio.Event()

    def refused(self, operation: str) -> None:
        self.refusals.append(operation)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.arrivals.append(came_at.get())
        if scope["method"] == "POST":
            self.asked += 1
            body = b""
            while not body.endswith(b"}"):
                body += (await receive())["body"]
            assert body == BODY
            await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def has(self, asked: int) -> None:
        async with asyncio.timeout(10):
            while self.asked < asked:  # noqa: ASYNC110 - the count is the app's own
                await asyncio.sleep(0.001)


@asynccontextmanager
async def gated(funnel: Funnel) -> AsyncIterator[Callable[[], Awaitable[Stream]]]:
    loop = asyncio.get_running_loop()
    accept_all(loop, Gate(funnel).protocol)
    server = uvicorn.Server(uvicorn.Config(funnel.app, interface="asgi3", lifespan="off", log_config=None))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    sock = listening()
    address = sock.getsockname()
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    opened: list[asyncio.StreamWriter] = []

    async def connect() -> Stream:
        reader, writer = await asyncio.open_connection(*address)
        opened.append(writer)
        return reader, writer

    try:
        async with asyncio.timeout(20):
            while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            yield connect
    finally:
        funnel.may_answer.set()
        for writer in opened:
            writer.close()
        server.should_exit = True
        await serving


async def ask(stream: Stream, *chunks: bytes) -> None:
    for chunk in chunks:
        stream[1].write(chunk)
        await stream[1].drain()
        await asyncio.sleep(0.02)


async def response(stream: Stream) -> tuple[int, dict[str, str], bytes]:
    head = (await stream[0].readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ") for line in head[1:-2])}
    return int(head[0].split()[1]), headers, await stream[0].readexactly(int(headers["content-length"]))


def on_uvloop(limit: int, test: Callable[[Funnel, Callable[[], Awaitable[Stream]]], Awaitable[None]]) -> None:
    async def run() -> None:
        funnel = Funnel(limit)
        async with gated(funnel) as connect:
            await test(funnel, connect)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_past_the_limit_requests_are_refused_with_a_remedy_and_later_let_in_on_the_same_connection() -> None:
    async def test(funnel: Funnel, connect: Callable[[], Awaitable[Stream]]) -> None:
        first, second, third = [await connect() for _ in range(3)]
        await ask(first, ASK)
        await ask(second, ASK)
        await funnel.has(2)
        for _ in range(2):
            await ask(third, ASK)
            status, headers, body = await response(third)
            assert (status, headers["retry-after"]) == (503, "1")
            assert headers["content-type"] == "application/problem+json"
            problem = orjson.loads(body)
            assert problem["title"] == "Overloaded"
            assert "2 requests" in problem["detail"]
        assert funnel.refusals == ["recommend", "recommend"]
        funnel.may_answer.set()
        assert (await response(first))[2] == (await response(second))[2] == b"ok"
        await ask(third, ASK)
        assert (await response(third))[0] == 200
        assert funnel.asked == 3

    on_uvloop(2, test)


def test_a_refused_body_that_comes_in_pieces_is_swallowed() -> None:
    async def test(funnel: Funnel, connect: Callable[[], Awaitable[Stream]]) -> None:
        first, second = await connect(), await connect()
        await ask(first, HEAD, BODY[:5], BODY[5:])
        await funnel.has(1)
        await ask(second, HEAD)
        assert (await response(second))[0] == 503
        await ask(second, BODY[:5], BODY[5:], ASK)
        assert (await response(second))[0] == 503
        funnel.may_answer.set()
        assert (await response(first))[0] == 200
        await ask(second, HEAD, BODY)
        assert (await response(second))[0] == 200
        assert len(funnel.refusals) == 2

    on_uvloop(1, test)


def test_everything_else_comes_through_and_counts_from_its_own_time() -> None:
    async def test(funnel: Funnel, connect: Callable[[], Awaitable[Stream]]) -> None:
        first, second = await connect(), await connect()
        await ask(first, ASK)
        await funnel.has(1)
        await ask(second, GET)
        assert (await response(second))[0] == 200
        before, after = funnel.arrivals
        assert 0 < before < after
        funnel.may_answer.set()
        await response(first)
        await ask(first, GET)
        assert (await response(first))[0] == 200
        assert funnel.arrivals[2] > after

    on_uvloop(1, test)


def test_what_cannot_be_followed_goes_to_uvicorn() -> None:
    chunked = HEAD.replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")

    async def test(funnel: Funnel, connect: Callable[[], Awaitable[Stream]]) -> None:
        blocker = await connect()
        await ask(blocker, ASK)
        await funnel.has(1)
        streams = [await connect() for _ in range(3)]
        await ask(streams[0], ASK[:20], ASK[20:])
        await ask(streams[1], chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
        await ask(streams[2], ASK + ASK)
        await funnel.has(4)
        funnel.may_answer.set()
        for stream in [blocker, *streams, streams[2]]:
            assert (await response(stream))[0] == 200
        assert funnel.refusals == []

    on_uvloop(1, test)


def test_one_that_sends_the_next_with_the_end_of_a_refused_one_is_disconnected() -> None:
    async def test(funnel: Funnel, connect: Callable[[], Awaitable[Stream]]) -> None:
        first, second = await connect(), await connect()
        await ask(first, ASK)
        await funnel.has(1)
        await ask(second, HEAD + BODY[:5], BODY[5:] + ASK)
        assert (await response(second))[0] == 503
        assert await second[0].read() == b""
        funnel.may_answer.set()
        assert (await response(first))[0] == 200

    on_uvloop(1, test)


def test_callers_who_leave_make_room() -> None:
    async def test(funnel: Funnel, connect: Callable[[], Awaitable[Stream]]) -> None:
        first, second = await connect(), await connect()
        await ask(first, ASK)
        await funnel.has(1)
        first[1].close()
        await asyncio.sleep(0.05)
        funnel.may_answer.set()
        await ask(second, ASK)
        assert (await response(second))[0] == 200

    on_uvloop(1, test)


def test_a_connection_that_uvicorn_might_close_is_refused_for_good(monkeypatch: Any) -> None:
    monkeypatch.setattr("deployments.gate._REUSED_S", -1.0)

    async def test(funnel: Funnel, connect: Callable[[], Awaitable[Stream]]) -> None:
        first, known = await connect(), await connect()
        await ask(known, GET)
        await response(known)
        await ask(first, ASK)
        await funnel.has(1)
        await ask(known, ASK)
        status, headers, _ = await response(known)
        assert (status, headers["connection"]) == (503, "close")
        assert await known[0].read() == b""
        funnel.may_answer.set()
        assert (await response(first))[0] == 200

    on_uvloop(1, test)
