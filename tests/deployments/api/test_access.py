"""The access chain: no route answers without it, and what it says is the same at every door."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from deployments.api.access import AccessChain, CorsConfig, Head, load_checks, sane_request_id
from deployments.api.http import HttpApp, HttpConfig, make_app
from deployments.api.operations import Recommender
from deployments.errors import ConfigError, Forbidden, Unauthorized
from deployments.store.memory import MemoryStore
from monitoring.logs.ecs import FIELDS

Build = Callable[..., Recommender]
REQUESTS = "rayfunnel_requests_total"
SHOP, OTHER = "https://shop.example", "https://other.example"
PREFLIGHT = {"Origin": SHOP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


def closed(head: Head) -> None:
    """A check that refuses everything."""
    raise Forbidden(f"not {head.method} {head.path}")


def broken(head: Head) -> None:
    raise KeyError("secret")


def no_drift(head: Head) -> None:
    if head.path.startswith("/v1/drift"):
        raise Forbidden("not yours")


def with_key(head: Head) -> None:
    if head.get(b"authorization") != b"Bearer k":
        raise Unauthorized("send a key")


def client(app: HttpApp, root_path: str = "") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, root_path=root_path, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://test{root_path}/")


@pytest.fixture
def serve(in_process: Build, store: MemoryStore) -> Callable[..., HttpApp]:
    recommender = in_process(store)
    return lambda **access: make_app(recommender, HttpConfig(), AccessChain(**access))


async def ask_unread(app: HttpApp, method: str, path: str) -> int:
    """The status of a request whose body must not be read."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError(f"the body of {method} {path} was read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "client": None,
        "server": ("a", 80), "headers": [(b"host", b"a"), (b"content-length", b"9")],
    }  # fmt: skip
    await app(scope, receive, send)
    return int(sent[0]["status"])


async def test_no_route_and_no_method_answers_without_the_chain(serve: Callable[..., HttpApp]) -> None:
    app = serve(checks=[closed])
    paths = {route.path.replace("{name}", "x") for route in app.routes if hasattr(route, "path")}
    assert {"/v1/recommend", "/metrics", "/docs", "/openapi.json", "/", "/drift/x"} <= paths
    for path in sorted(paths | {"/nowhere"}):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
            assert await ask_unread(app, method, path) == 403, (method, path)


async def test_a_check_that_fails_lets_nobody_in(serve: Callable[..., HttpApp]) -> None:
    async with client(serve(checks=[broken])) as asked:
        answer = await asked.get("v1/health/live")
    assert answer.status_code == 500
    assert "secret" not in answer.text


async def test_checks_see_the_head_and_say_what_is_missing(serve: Callable[..., HttpApp]) -> None:
    app = serve(checks=load_checks([f"{__name__}:with_key"]))
    async with client(app, "/reco") as asked:
        refused = await asked.get("v1/health/live")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.json()["detail"] == "send a key"
        assert (await asked.get("v1/health/live", headers={"Authorization": "Bearer k"})).status_code == 200
    seen: list[Head] = []
    async with client(serve(checks=[seen.append]), "/reco") as asked:
        await asked.get("v1/health/live")
    assert seen[0].path == "/v1/health/live", "below the route prefix"


async def async_check(head: Head) -> None:
    raise Forbidden("never awaited")


class AsyncCheck:
    async def __call__(self, head: Head) -> None:
        raise Forbidden("never awaited")


def generator(head: Head) -> Iterator[None]:
    yield


def of_two(head: Head, other: Head) -> None:
    raise AssertionError


ASYNC = AsyncCheck()


@pytest.mark.parametrize("name", ["async_check", "AsyncCheck", "ASYNC", "generator", "of_two"])
def test_a_check_that_nothing_would_wait_for_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"plain function|not a function|head alone"):
        load_checks([f"{__name__}:{name}"])


async def test_a_check_that_says_no_in_another_way_lets_nobody_in(serve: Callable[..., HttpApp]) -> None:
    for says in (lambda _: False, lambda _: True, lambda _: "no"):
        async with client(serve(checks=[says])) as asked:
            assert (await asked.get("v1/health/live")).status_code == 500


async def test_a_websocket_is_closed(serve: Callable[..., HttpApp]) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/v1/recommend", "headers": [], "query_string": b"", "root_path": ""}
    await serve()(scope, receive, send)
    assert sent == ["websocket.close"]


@pytest.mark.parametrize(
    ("value", "length"),
    [
        (b"", 0),
        (b"17", 17),
        (b"2 \t", 2),
        (b"0" * 5000 + b"2", 2),
        (b"0", 0),
        (b"9" * 16, sys.maxsize),
        (b"x", sys.maxsize),
    ],
)
def test_the_announced_length_is_read_as_httptools_reads_it(value: bytes, length: int) -> None:
    assert Head("POST", "/", [(b"content-length", value)], None).content_length == length


@pytest.mark.parametrize(
    "name", ["no_such_module:check", "deployments.api.access:no_such", "os", "deployments.api.access:log"]
)
def test_a_check_that_is_not_there_is_a_config_error(name: str) -> None:
    with pytest.raises(ConfigError, match=r"http\.checks"):
        load_checks([name])


async def test_without_cors_no_header_speaks_of_origins(serve: Callable[..., HttpApp]) -> None:
    async with client(serve()) as asked:
        answer = await asked.get("v1/health/live", headers={"Origin": SHOP})
        assert (await asked.options("v1/recommend", headers=PREFLIGHT)).status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", ["https://x/", "shop.example.com", "", "HTTPS://x", "https://x/path", "null"])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValidationError, match=r"origins\.0"):
        CorsConfig(origins=[origin])


async def test_preflights_are_answered_before_the_checks(serve: Callable[..., HttpApp]) -> None:
    app = serve(cors=CorsConfig(origins=[SHOP]), checks=[closed])
    async with client(app) as asked:
        allowed = await asked.options("v1/recommend", headers=PREFLIGHT)
        refused = await asked.options("v1/recommend", headers=PREFLIGHT | {"Origin": OTHER})
        post = await asked.post("v1/recommend", headers={"Origin": SHOP}, json={})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, SHOP)
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers
    assert (post.status_code, post.headers["access-control-allow-origin"]) == (403, SHOP), "a page can read the refusal"


@pytest.mark.parametrize(
    ("origins", "asks", "allowed"),
    [((SHOP,), SHOP, SHOP), ((SHOP,), OTHER, None), (("*",), OTHER, "*"), ((SHOP,), None, None)],
)
async def test_answers_name_the_origins_that_may_read_them(
    serve: Callable[..., HttpApp], origins: tuple[str, ...], asks: str | None, allowed: str | None
) -> None:
    async with client(serve(cors=CorsConfig(origins=list(origins)))) as asked:
        answer = await asked.get("v1/health/live", headers={"Origin": asks} if asks else {})
    assert answer.headers.get("access-control-allow-origin") == allowed
    assert (answer.headers.get("vary") == "Origin") == (origins == (SHOP,)), "whoever asks: caches keep the answer"


@pytest.mark.parametrize(
    ("value", "sane"),
    [
        (b"mine", True),
        (b"a" * 128, True),
        (b"a" * 129, False),
        (b"", False),
        (b"a b", False),
        (b'a"', False),
        (b"\xc3", False),
    ],
)
def test_a_request_id_is_taken_if_it_is_sane(value: bytes, sane: bool) -> None:
    assert sane_request_id(value) is sane


async def test_header_body_and_problem_carry_one_request_id(serve: Callable[..., HttpApp]) -> None:
    async with client(serve()) as asked:
        for body, given in (({"user_id": "u1", "deadline_ms": 9000}, "mine"), ({"user": "u1"}, "mine")):
            answer = await asked.post("v1/recommend", json=body, headers={"X-Request-ID": given})
            assert answer.json()["request_id"] == given
        insane = await asked.post("v1/recommend", json={"user_id": "u1"}, headers={"X-Request-ID": "a b"})
        assert len(insane.json()["request_id"]) == 32
        assert (await asked.get("nowhere", headers={"X-Request-ID": "mine"})).json()["request_id"] == "mine"


async def test_head_answers_as_get_does(serve: Callable[..., HttpApp]) -> None:
    app = serve()
    paths = [route.path for route in app.routes if "GET" in (getattr(route, "methods", None) or ())]
    assert len(paths) > 8
    async with client(app) as asked:
        for path in paths:
            url = path.lstrip("/").replace("{name}", "x")
            get, head = await asked.get(url), await asked.head(url)
            assert head.status_code == get.status_code, path
            assert head.headers.get("content-type") == get.headers.get("content-type"), path
        assert (await asked.head("v1/recommend")).status_code == 405


async def test_concurrent_requests_keep_their_own_ids(serve: Callable[..., HttpApp]) -> None:
    async with client(serve()) as asked:
        answers = await asyncio.gather(
            *(asked.post("v1/recommend", json={"user_id": "u1"}, headers={"X-Request-ID": f"id{i}"}) for i in range(20))
        )
    assert [answer.json()["request_id"] for answer in answers] == [f"id{i}" for i in range(20)]


async def test_what_is_refused_before_operation_is_counted_once_and_has_a_line_with_its_id(
    in_process: Build, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    recommender = in_process(store)
    app = make_app(recommender, HttpConfig(max_body_bytes=1024), AccessChain(checks=[no_drift]))
    asked = [
        ("POST", "/v1/recommend", {"content": b" " * 2000}, "recommend", 413),
        ("POST", "/v1/events", {"content": b"{}", "headers": {"Content-Encoding": "br"}}, "record_events", 415),
        ("GET", "/v1/drift", {}, "other", 403),
        ("GET", "/nowhere", {}, "other", 404),
        ("HEAD", "/v1/rank", {}, "rank", 405),
    ]
    with caplog.at_level(logging.INFO, "rayfunnel.requests"):
        async with client(app) as callers:
            for number, (method, path, sent, _, status) in enumerate(asked):
                headers = sent.pop("headers", {}) | {"X-Request-ID": f"id{number}"}
                assert (await callers.request(method, path, headers=headers, **sent)).status_code == status
            assert (await callers.get("v1/health/ready")).status_code == 503, "not counted: it is no fault"
    counted = {name: v for name, v in recommender.replica_metrics.snapshot().counters.items() if name[0] == REQUESTS}
    assert counted == {(REQUESTS, (("operation", op), ("status", str(status)))): 1.0 for *_, op, status in asked}
    lines = [getattr(record, FIELDS) for record in caplog.records if record.name == "rayfunnel.requests"]
    assert [line["http.request.id"] for line in lines] == [f"id{number}" for number in range(len(asked))]
    assert [line["http.response.status_code"] for line in lines] == [status for *_, status in asked]
