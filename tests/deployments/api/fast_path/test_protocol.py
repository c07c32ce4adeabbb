"""What HTTP/1.1 does not allow is refused with 400, in its turn, with the fast path or without."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from uvicorn.config import HTTP_PROTOCOLS

from deployments.api.access import AccessChain
from deployments.api.fast_path import install
from deployments.api.fast_path.protocol import head_fault
from tests.deployments.api.fast_path.test_connection import (
    ASK,
    BODY,
    GET,
    HEAD,
    Connect,
    RecordingApp,
    ask,
    on_uvloop,
    refuse_nobody,
    response,
)

HOST = [(b"host", b"a")]


@pytest.mark.parametrize(
    ("target", "headers", "version"),
    [
        (b"/", [], "1.1"),
        (b"/", HOST * 2, "1.1"),
        (b"/", HOST * 2, "1.0"),
        (b"/", [(b"host", b"a b")], "1.1"),
        (b"/", [(b"host", b"a/b")], "1.1"),
        (b"/", HOST, "2.0"),
        (b"/", HOST, "0.9"),
        (b"/a#b", HOST, "1.1"),
        (b"/a|b", HOST, "1.1"),
        (b"/a\\b", HOST, "1.1"),
        (b'/"a"', HOST, "1.1"),
        (b"/\xc3\xa9", HOST, "1.1"),
        (b"/%", HOST, "1.1"),
        (b"/%4", HOST, "1.1"),
        (b"/%zz", HOST, "1.1"),
    ],
)
def test_a_bad_head_has_a_fault(target: bytes, headers: list[tuple[bytes, bytes]], version: str) -> None:
    assert head_fault(target, headers, version)


@pytest.mark.parametrize(
    ("target", "headers", "version"),
    [
        (b"/v1/a%20b?c=%C3%A9&d[]=1", HOST, "1.1"),
        (b"http://a/x", HOST, "1.1"),
        (b"/", [], "1.0"),
        (b"/", [(b"host", b"[::1]:80 ")], "1.1"),
        (b"/", [(b"host", b"")], "1.1"),
    ],
)
def test_a_good_head_has_none(target: bytes, headers: list[tuple[bytes, bytes]], version: str) -> None:
    assert head_fault(target, headers, version) == ""


@pytest.mark.parametrize("directly", [True, False])
@pytest.mark.parametrize(
    "bad",
    [
        HEAD.replace(b"Host: a\r\n", b"") + BODY,
        HEAD.replace(b"Host: a", b"Host: a\r\nHost: b") + BODY,
        ASK.replace(b"recommend HTTP", b"recommend#f HTTP"),
        b"nonsense\r\n\r\n",
    ],
    ids=["no host", "two hosts", "fragment", "no request"],
)
def test_a_bad_request_is_400_after_the_responses_before_it(bad: bytes, directly: bool) -> None:
    async def test(funnel: RecordingApp, connect: Connect) -> None:
        if directly:
            funnel.answer_directly()
        alone, after = await connect(), await connect()
        await ask(alone, bad)
        status, headers, body = await response(alone)
        assert (status, headers["connection"]) == (400, "close")
        assert headers["content-type"] == "application/problem+json"
        problem = json.loads(body)
        assert problem["title"] == "Malformed request"
        assert problem["request_id"] == headers["x-request-id"]
        assert await alone[0].read() == b""
        assert funnel.refused_early == [("other", 400)]
        await ask(after, ASK + ASK + bad + GET)
        funnel.may_answer.set()
        assert [(await response(after))[0] // 100 for _ in range(3)] == [2, 2, 4]
        assert await after[0].read() == b""

    on_uvloop(9, test)


@pytest.mark.parametrize("directly", [True, False])
def test_a_body_with_a_broken_chunk_is_400_and_never_computed(directly: bool) -> None:
    broken = HEAD.replace(b"Content-Length: %d" % len(BODY), b"Transfer-Encoding: chunked") + b"3\r\nabc\r\nzz\r\n"

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        if directly:
            funnel.answer_directly()
        funnel.may_answer.set()
        stream, pipelined = await connect(), await connect()
        await ask(stream, broken)
        assert (await response(stream))[0] == 400
        assert await stream[0].read() == b""
        await ask(pipelined, ASK + broken)
        assert [(await response(pipelined))[0] // 100 for _ in range(2)] == [2, 4]
        assert funnel.limits["recommend"].under_way == 0
        assert len(funnel.directly) == directly

    on_uvloop(9, test)


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 200, b"one\r\nX-Request-ID: two"])
def test_every_request_has_one_sane_id(given: bytes) -> None:
    asking = HEAD.replace(b"Host: a", b"Host: a\r\nX-Request-ID: " + given) + BODY

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        funnel.may_answer.set()
        await ask(stream := await connect(), asking)
        request_id = (await response(stream))[1]["x-request-id"]
        assert len(request_id) == 32
        assert funnel.directly[0].request_id == request_id
        assert funnel.directly[0].get(b"x-request-id").decode() == request_id

    on_uvloop(1, test)


@pytest.mark.parametrize("directly", [True, False])
def test_fields_after_a_chunked_body_are_no_headers(directly: bool) -> None:
    chunked = HEAD.replace(b"Content-Length: %d" % len(BODY), b"X-Request-ID: mine\r\nTransfer-Encoding: chunked")
    trailers = b"X-Request-ID: other\r\nContent-Encoding: gzip\r\nAuthorization: nobody\r\n"

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.fast_path.access = AccessChain(checks=[refuse_nobody])
        if directly:
            funnel.answer_directly()
        funnel.may_answer.set()
        stream = await connect()
        for _ in range(2):
            await ask(stream, chunked + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(BODY), BODY, trailers))
            status, headers, _ = await response(stream)
            assert status < 300
            assert headers.get("x-request-id", "mine") == "mine"
        for head in funnel.directly:
            assert head.get(b"content-encoding") == b""

    on_uvloop(1, test)


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"foo"])
def test_an_upgrade_is_ignored_and_refused_with_a_body(upgrade: bytes) -> None:
    wants = b"Host: a\r\nConnection: Upgrade\r\nUpgrade: " + upgrade

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        funnel.may_answer.set()
        stream, other = await connect(), await connect()
        await ask(stream, GET.replace(b"Host: a", wants) + GET, ASK)
        assert [(await response(stream))[2] for _ in range(3)] == [b"ok", b"ok", b"direct"]
        await ask(other, ASK.replace(b"Host: a", wants) + GET)
        assert (await response(other))[0] == 400
        assert await other[0].read() == b"", "its body is not taken for a request"

    on_uvloop(1, test)


def changed_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_ARGUMENTS", ("config", "server"))


def missing_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_METHODS", ("no_such_method",))


def other_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", "uvicorn.protocols.http.h11_impl:H11Protocol")


@pytest.mark.parametrize("change", [changed_signature, missing_method, other_protocol])
def test_where_uvicorn_is_not_as_tested_it_answers_everything_itself(
    change: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    change(monkeypatch)

    async def test(funnel: RecordingApp, connect: Connect) -> None:
        funnel.answer_directly()
        funnel.may_answer.set()
        for _ in range(2):
            await ask(stream := await connect(), ASK)
            assert (await response(stream))[2] == b"ok"
        assert funnel.not_installed == 1
        assert funnel.directly == []

    on_uvloop(1, test)
    assert [r.levelname for r in caplog.records if r.name == "rayfunnel.http"] == ["WARNING"]


def test_other_servers_of_the_event_loop_keep_their_protocols() -> None:
    async def made() -> bytes:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        from deployments.api.fast_path.listener import accept_all

        accept_all(asyncio.get_running_loop(), install.replacing_uvicorns(RecordingApp(1).fast_path, lambda: None))
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        received = await reader.read()
        writer.close()
        server.close()
        return received

    assert asyncio.run(made()) == b"hello"
