"""The fast path before a real uvicorn: what it answers, refuses and passes on, and what is left afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import orjson
import pytest
import uvicorn
import uvloop
from starlette.responses import Response
from uvicorn.server import ServerState

from deployments.api.access import AccessChain, CorsConfig, Head
from deployments.api.fast_path.connection import FastPathConnection
from deployments.api.fast_path.install import replacing_uvicorns
from deployments.api.fast_path.listener import accept_all
from deployments.api.fast_path.routes import OPERATIONS, FastPath
from deployments.errors import Forbidden, Overloaded
from deployments.pipeline.overload.concurrency_limit import ConcurrencyLimit
from deployments.pipeline.overload.refusal_pacing import RefusalPacer
from deployments.pipeline.request import came_at
from monitoring.logs.context import incoming_trace
from tests.deployments.api.fast_path.test_listener import listening
from tests.support.wire import RecordingTransport

MAX_BODY = 2**20
BODY = b'{"user_id": "u1"}'
HEAD = b"POST /shop/v1/recommend HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)
ASK = HEAD + BODY
CLOSING = HEAD.replace(b"Host: a", b"Host: a\r\nConnection: Close") + BODY
GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Stream]]


def refuse_nobody(head: Head) -> None:
    if head.get(b"authorization") == b"nobody":
        raise Forbidden(head.path)


def uvicorn_arguments() -> dict[str, Any]:
    config = uvicorn.Config(lambda: None, interface="asgi3", lifespan="off", log_config=None)
    return {"config": config, "server_state": ServerState(), "app_state": {}}


class RecordingApp:
    """An app that answers a POST once it may, with a limit per group of operations."""

    def __init__(self, limit: int) -> None:
        ranking, similar, events = (
            ConcurrencyLimit(limit, name, f"{name} requests", "wait") for name in ("ranking", "similar", "events")
        )
        self.limits = {"recommend": ranking, "rank": ranking, "similar": similar, "record_events": events}
        self.refusals: list[str] = []
        self.refused_early: list[tuple[str, int]] = []
        self.asked = 0
        self.arrivals: list[float] = []
        self.may_answer = asyncio.Event()
        self.fast_path = FastPath(self, AccessChain(), MAX_BODY)
        self.not_installed = 0
        self.directly: list[Head] = []
        self.given_up = 0
        self.stop: Callable[[], None] = lambda: None

    def answer_directly(self) -> None:
        """From now on requests to recommend are answered without uvicorn."""
        self.fast_path.routes[b"/shop/v1/recommend"] = self.direct

    async def direct(self, body: bytes, head: Head) -> Response:
        self.arrivals.append(came_at.get())
        self.directly.append(head)
        assert body == BODY
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return Response(b"direct", 201)

    def refused_before_operation(self, operation: str, request_id: str, status: int) -> None:
        self.refused_early.append((operation, status))

    def refuse_unread(self, operation: str, request_id: str) -> Overloaded:
        self.refusals.append(operation)
        return self.limits[operation].refuse()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.arrivals.append(came_at.get())
        status = 200
        if scope["method"] == "POST":
            self.asked += 1
            body = b""
            while not body.endswith(b"}"):
                body += (await receive())["body"]
            assert body == BODY
            try:
                with self.limits[OPERATIONS[scope["path"].rsplit("/", 1)[1].encode()]].slot():
                    await self.may_answer.wait()
            except Overloaded:
                status = 503
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    def count_not_installed(self) -> None:
        self.not_installed += 1

    async def has(self, asked: int) -> None:
        async with asyncio.timeout(10):
            while self.asked + len(self.directly) < asked:  # noqa: ASYNC110 - the counts are the funnel's own
                await asyncio.sleep(0.001)


@asynccontextmanager
async def behind_the_fast_path(funnel: RecordingApp, keep_alive_s: int = 30) -> AsyncIterator[Connect]:
    loop = asyncio.get_running_loop()
    accept_all(loop, replacing_uvicorns(funnel.fast_path, funnel.count_not_installed))
    config = uvicorn.Config(
        funnel.app, interface="asgi3", lifespan="off", log_config=None, timeout_keep_alive=keep_alive_s
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    sock = listening()
    address = sock.getsockname()
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    funnel.stop = lambda: setattr(server, "should_exit", True)
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
        funnel.stop()
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


def on_uvloop(limit: int, test: Callable[[RecordingApp, Connect], Awaitable[None]], keep_alive_s: int = 30) -> None:
    async def run() -> None:
        funnel = RecordingApp(limit)
        async with behind_the_fast_path(funnel, keep_alive_s) as connect:
            await test(funnel, connect)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_past_the_limit_requests_are_refused_with_a_remedy_and_later_let_in_on_the_same_connection() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        first, second, third = [await connect() for _ in range(3)]
        await ask(first, ASK)
        await ask(second, ASK)
        await funnel.has(2)
        for name in (b"", b"X-Request-ID: mine\r\n"):
            await ask(third, HEAD.replace(b"\r\n\r\n", b"\r\n" + name + b"\r\n") + BODY)
            status, headers, body = await response(third)
            assert (status, headers["retry-after"]) == (503, "1")
            assert headers["content-type"] == "application/problem+json"
            problem = orjson.loads(body)
            assert problem["request_id"] == headers["x-request-id"]
            assert (headers["x-request-id"] == "mine") == bool(name)
            assert problem["title"] == "Overloaded"
            assert "2 ranking requests are under way" in problem["detail"]
        assert funnel.refusals == ["recommend", "recommend"]
        funnel.may_answer.set()
        assert (await response(first))[2] == (await response(second))[2] == b"ok"
        await ask(third, ASK)
        assert (await response(third))[0] == 200
        assert funnel.asked == 3

    on_uvloop(2, test)


def test_a_delayed_refusal_is_written_before_the_responses_to_later_requests_and_before_the_server_stops() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.fast_path.pacer = RefusalPacer(per_s=5.0, burst=1)
        funnel.answer_directly()
        first, second, third, fourth = [await connect() for _ in range(4)]
        await ask(first, ASK)
        await funnel.has(1)
        await ask(second, ASK)
        assert (await response(second))[0] == 503
        began = asyncio.get_running_loop().time()
        await ask(second, ASK, GET)
        await ask(third, ASK)
        third[1].close()
        assert [(await response(second))[0] for _ in range(2)] == [503, 200]
        assert asyncio.get_running_loop().time() - began > 0.1
        await ask(fourth, ASK)
        funnel.stop()
        status, headers, _ = await response(fourth)
        assert (status, headers["connection"]) == (503, "close")
        assert await fourth[0].read() == b""
        assert funnel.refusals == ["recommend"] * 4

    on_uvloop(1, test)


def test_a_refused_body_that_arrives_in_pieces_is_discarded() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
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
    async def test(funnel: RecordingApp, connect: Connect) -> None:
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


def test_requests_in_pieces_chunked_and_pipelined_are_answered_directly() -> None:
    chunked = HEAD.replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        streams = [await connect() for _ in range(4)]
        await ask(streams[0], ASK[:20], ASK[20:])
        await ask(streams[1], chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
        await ask(streams[2], ASK + ASK)
        await ask(streams[3], CLOSING)
        await funnel.has(4)
        funnel.may_answer.set()
        for stream in [*streams, streams[2]]:
            assert (await response(stream))[2] == b"direct"
        assert funnel.asked == 0
        assert await streams[3][0].read() == b""

    on_uvloop(9, test)


@pytest.mark.parametrize("directly", [True, False])
def test_a_pipelined_request_takes_a_slot_of_its_own(directly: bool) -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        if directly:
            funnel.answer_directly()
        first, other = await connect(), await connect()
        await ask(first, ASK)
        await funnel.has(1)
        await ask(first, ASK)  # waits for the response to the one before
        assert funnel.limits["recommend"].under_way == 1
        funnel.may_answer.set()
        for _ in range(2):
            assert (await response(first))[0] < 300
        assert funnel.limits["recommend"].under_way == 0
        await ask(other, ASK)
        assert (await response(other))[0] < 300

    on_uvloop(1, test)


def test_a_body_over_the_limit_is_413_with_and_without_a_length() -> None:
    large = b"Content-Length: %d" % (MAX_BODY + 100)
    chunked = HEAD.replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked")
    piece = b"%x\r\n%b\r\n" % (2**16, bytes(2**16))

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        async def direct(body: bytes, head: Head) -> Response:
            assert len(body) <= MAX_BODY + 2**16, "no more is kept"
            return Response(b"", 413)

        funnel.fast_path.routes[b"/shop/v1/recommend"] = direct
        with_length, without = await connect(), await connect()
        await ask(with_length, HEAD.replace(b"Content-Length: %d" % len(BODY), large))
        assert (await response(with_length))[0] == 413
        await ask(without, chunked)
        for _ in range(40):
            without[1].write(piece)
        await ask(without, b"0\r\n\r\n" + GET)
        assert [(await response(without))[0] for _ in range(2)] == [413, 200], "the rest was discarded"

    on_uvloop(1, test)


def test_requests_that_expect_100_go_to_uvicorn_and_are_bounded_by_the_operation() -> None:
    expecting = HEAD.replace(b"Host: a", b"Host: a\r\nExpect: 100-continue")

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        first, second = await connect(), await connect()
        await ask(first, ASK)
        await funnel.has(1)
        await ask(second, expecting)
        assert (await second[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await ask(second, BODY)
        assert (await response(second))[0] == 503
        funnel.may_answer.set()
        assert (await response(first))[2] == b"direct"
        assert funnel.refusals == []

    on_uvloop(1, test)


def test_the_request_that_comes_with_the_end_of_a_refused_one_has_its_own_answer() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        first, second = await connect(), await connect()
        await ask(first, ASK)
        await funnel.has(1)
        await ask(second, HEAD + BODY[:5], BODY[5:] + ASK + GET)
        assert [(await response(second))[0] for _ in range(3)] == [503, 503, 200]
        funnel.may_answer.set()
        assert (await response(first))[0] == 200

    on_uvloop(1, test)


def test_callers_who_leave_make_room() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        first, second = await connect(), await connect()
        await ask(first, ASK)
        await funnel.has(1)
        first[1].close()
        await asyncio.sleep(0.05)
        funnel.may_answer.set()
        await ask(second, ASK)
        assert (await response(second))[0] == 201

    on_uvloop(1, test)


def test_a_refusal_ends_the_connection_if_it_was_asked_to() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        first, second = await connect(), await connect()
        await ask(first, ASK)
        await funnel.has(1)
        await ask(second, CLOSING)
        status, headers, _ = await response(second)
        assert (status, headers["connection"]) == (503, "close")
        assert await second[0].read() == b""
        funnel.may_answer.set()
        assert (await response(first))[0] == 200

    on_uvloop(1, test)


def test_a_request_for_a_known_route_is_answered_without_uvicorn() -> None:
    headers = b"traceparent: 00-1\r\nX-Request-Id:  mine \r\n"

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        funnel.may_answer.set()
        stream = await connect()
        for _ in range(3):
            await ask(stream, HEAD.replace(b"\r\n\r\n", b"\r\n" + headers + b"\r\n") + BODY)
            status, got, body = await response(stream)
            assert (status, got["x-request-id"], body) == (201, "mine", b"direct")
            assert got["date"].endswith("GMT")
            assert "connection" not in got
        assert funnel.directly[0].get(b"traceparent") == b"00-1"
        assert funnel.directly[0].request_id == "mine"
        assert funnel.asked == 0
        await ask(stream, GET)
        assert (await response(stream))[2] == b"ok"
        await ask(stream, ASK)
        assert (await response(stream))[2] == b"direct"
        await ask(stream, ASK.replace(b"/recommend", b"/rank"))
        assert (await response(stream))[2] == b"ok"
        assert 0 < funnel.arrivals[0] < funnel.arrivals[1] < funnel.arrivals[2]

    on_uvloop(1, test)


@pytest.mark.parametrize(("path", "operation"), [(b"/events", "record_events"), (b"/similar", "similar")])
@pytest.mark.parametrize("directly", [True, False])
def test_a_flood_of_events_or_similar_is_refused_at_its_own_limit_and_takes_no_room_from_recommendations(
    path: bytes, operation: str, directly: bool
) -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        if directly:
            funnel.fast_path.routes[b"/shop/v1" + path] = funnel.direct
        streams = [await connect() for _ in range(12)]
        for stream in streams:
            stream[1].write(ASK.replace(b"/recommend", path))
        await funnel.has(2)
        await ask(asked := await connect(), ASK)
        await funnel.has(3)
        funnel.may_answer.set()
        statuses = [(await response(stream))[0] for stream in streams]
        assert (await response(asked))[0] == 200
        assert statuses.count(503) == 10
        assert funnel.refusals == ([operation] * 10 if directly else []), "uvicorn's are refused by the operation"
        assert {limit.under_way for limit in funnel.limits.values()} == {0}

    on_uvloop(2, test)


def test_a_slow_sender_holds_no_room() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.may_answer.set()
        slow = [await connect() for _ in range(3)]
        for stream in slow:
            await ask(stream, HEAD)
        await ask(quick := await connect(), ASK)
        assert (await response(quick))[0] == 200
        await ask(slow[0], BODY)
        assert (await response(slow[0]))[0] == 200

    on_uvloop(1, test)


def test_a_body_that_arrives_after_its_head_is_answered_without_uvicorn_and_holds_no_room_meanwhile() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        funnel.may_answer.set()
        slow, quick = await connect(), await connect()
        for _ in range(2):
            await ask(slow, HEAD, BODY[:5])
            assert funnel.limits["recommend"].under_way == 0
            await ask(quick, ASK)
            assert (await response(quick))[2] == b"direct"
            await ask(slow, BODY[5:])
            assert (await response(slow))[2] == b"direct"
        await ask(slow, HEAD, BODY + GET)
        assert [(await response(slow))[2] for _ in range(2)] == [b"direct", b"ok"]

    on_uvloop(1, test)


def test_direct_answers_count_towards_the_limit() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        first, second = await connect(), await connect()
        await ask(first, ASK)
        await ask(second, ASK)
        assert (await response(second))[0] == 503
        funnel.may_answer.set()
        assert (await response(first))[2] == b"direct"
        await ask(second, ASK)
        assert (await response(second))[2] == b"direct"

    on_uvloop(1, test)


def test_what_comes_during_a_direct_answer_has_its_turn_after_it() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        stream = await connect()
        await ask(stream, ASK, ASK[:30], ASK[30:] + GET)
        assert len(funnel.directly) == 1
        funnel.may_answer.set()
        assert [(await response(stream))[2] for _ in range(3)] == [b"direct", b"direct", b"ok"]

    on_uvloop(9, test)


def test_a_target_with_a_query_goes_to_uvicorn() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        funnel.may_answer.set()
        for target in (b"recommend?a=b", b"recommend?", b"recommend?a=/v1/recommend"):
            stream = await connect()
            await ask(stream, ASK.replace(b"recommend HTTP", target + b" HTTP"))
            assert (await response(stream))[2] == b"ok"
        assert funnel.directly == []

    on_uvloop(9, test)


def test_a_server_that_stops_gives_the_direct_answer_and_closes() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        silent, idle, stream = [await connect() for _ in range(3)]
        await ask(idle, GET)
        await response(idle)
        await ask(stream, ASK)
        funnel.stop()
        assert await idle[0].read() == await silent[0].read() == b""
        funnel.may_answer.set()
        status, headers, _ = await response(stream)
        assert (status, headers["connection"]) == (201, "close")
        assert await stream[0].read() == b""

    on_uvloop(9, test)


def test_a_caller_who_leaves_is_not_computed_for() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        stream, other = await connect(), await connect()
        await ask(stream, ASK)
        stream[1].close()
        async with asyncio.timeout(10):
            while not funnel.given_up:  # noqa: ASYNC110 - the count is the funnel's own
                await asyncio.sleep(0.001)
        for _ in range(20):  # some leave before anything was begun
            _, writer = await connect()
            writer.write(ASK)
            writer.close()
        await asyncio.sleep(0.05)
        funnel.may_answer.set()
        await ask(other, ASK)
        assert (await response(other))[2] == b"direct"

    on_uvloop(1, test)


def test_idle_connections_are_closed_as_uvicorn_closes_its_own() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        funnel.may_answer.set()
        stream = await connect()
        await ask(stream, ASK)
        assert (await response(stream))[2] == b"direct"
        assert await stream[0].read() == b""

    on_uvloop(9, test, keep_alive_s=1)


def test_an_answer_that_fails_is_500_and_leaves_nothing_behind(caplog: Any) -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        for error in (ValueError("secret"), asyncio.CancelledError()):
            funnel.fast_path.routes[b"/shop/v1/recommend"] = fails = AsyncMock(side_effect=error)
            stream = await connect()
            await ask(stream, ASK)
            status, _, body = await response(stream)
            assert (status, orjson.loads(body)["detail"]) == (500, type(error).__name__)
            assert fails.await_count == 1
        funnel.answer_directly()
        funnel.may_answer.set()
        await ask(stream, ASK)
        assert (await response(stream))[2] == b"direct"

    on_uvloop(1, test)
    assert [record.name for record in caplog.records if record.levelname == "ERROR"] == ["rayfunnel.http"] * 2


def test_a_request_that_waited_has_a_context_of_its_own() -> None:
    seen: list[str] = []

    async def direct(body: bytes, head: Head) -> Response:
        seen.append(incoming_trace.get())
        incoming_trace.set("of the first")
        await asyncio.sleep(0.1)
        return Response(b"direct")

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.fast_path.routes[b"/shop/v1/recommend"] = direct
        stream = await connect()
        await ask(stream, ASK, ASK)
        assert [(await response(stream))[2] for _ in range(2)] == [b"direct"] * 2

    on_uvloop(9, test)
    assert seen == ["", ""]


def test_the_access_chain_refuses_before_the_body_is_there_and_before_a_slot_is_taken() -> None:
    def closed(head: Head) -> None:
        raise Forbidden(head.path)

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.fast_path.access = AccessChain(CorsConfig(origins=["*"]), [closed])
        funnel.answer_directly()
        stream = await connect()
        await ask(stream, HEAD.replace(b"Host: a", b"Host: a\r\nOrigin: http://shop"))
        status, headers, body = await response(stream)
        assert (status, orjson.loads(body)["detail"]) == (403, "/v1/recommend")
        assert headers["access-control-allow-origin"] == "*"
        assert funnel.limits["recommend"].under_way == 0
        await ask(stream, BODY + GET)
        assert (await response(stream))[0] == 200
        assert funnel.directly == []

    on_uvloop(1, test)


@pytest.mark.parametrize("first", [GET, ASK])
def test_very_many_pipelined_refusals_are_all_written(first: bytes) -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.fast_path.access = AccessChain(checks=[refuse_nobody])
        funnel.answer_directly()
        funnel.may_answer.set()
        stream = await connect()
        await ask(stream, first + 500 * ASK.replace(b"Host: a", b"Host: a\r\nAuthorization: nobody"))
        assert (await response(stream))[0] < 300
        assert {(await response(stream))[0] for _ in range(500)} == {403}

    on_uvloop(1, test)


def test_a_peer_that_does_not_read_holds_no_slot() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        connection = FastPathConnection(funnel.fast_path, **uvicorn_arguments())
        transport = RecordingTransport(connection)
        connection.connection_made(transport)
        connection.data_received(ASK)
        connection.pause_writing()
        await funnel.has(1)
        assert funnel.limits["recommend"].under_way == 1
        funnel.may_answer.set()
        async with asyncio.timeout(10):
            while funnel.limits["recommend"].under_way:  # noqa: ASYNC110 - the count is the limit's own
                await asyncio.sleep(0.001)
        assert not transport.written
        connection.resume_writing()
        async with asyncio.timeout(10):
            while not transport.written:  # noqa: ASYNC110 - the transport has no event for it
                await asyncio.sleep(0.001)
        transport.close()
        await asyncio.sleep(0)

    on_uvloop(1, test)


def test_a_refusal_in_the_same_bytes_leaves_no_timer_that_cuts_the_next_request() -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        funnel.fast_path.access = AccessChain(checks=[refuse_nobody])
        stream = await connect()
        await ask(stream, ASK.replace(b"Host: a", b"Host: a\r\nAuthorization: nobody") + ASK)
        assert (await response(stream))[0] == 403
        await asyncio.sleep(1.3)
        funnel.may_answer.set()
        assert (await response(stream))[2] == b"direct"

    on_uvloop(1, test, keep_alive_s=1)
