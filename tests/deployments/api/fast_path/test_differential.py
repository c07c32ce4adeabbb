"""The fast path answers a connection's bytes as uvicorn does: the same responses, in the same order, the same end."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Mapping
from typing import Any

import uvicorn
from hypothesis import HealthCheck, given, settings
from uvicorn.server import ServerState

from deployments.api.access import AccessChain, CorsConfig, Head
from deployments.api.fast_path.connection import FastPathConnection
from deployments.api.fast_path.protocol import HttpProtocol
from deployments.api.fast_path.routes import FastPath
from deployments.api.http import HttpApp, HttpConfig, make_app
from deployments.errors import Forbidden, Overloaded
from deployments.pipeline.overload.concurrency_limit import ConcurrencyLimit
from monitoring.logs.context import RequestLogContext
from tests.support.wire import connections, outcome

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "500"))


def nobody(head: Head) -> None:
    if head.get(b"authorization"):
        raise Forbidden("nobody")


ACCESS = AccessChain(CorsConfig(origins=["http://shop.example"]), [nobody])


class Echo:
    """Operations that answer with what they were given."""

    def __init__(self) -> None:
        limit = ConcurrencyLimit(1000, "queue", "requests", "wait")
        self.refused_early: list[tuple[str, int]] = []
        self.limits = dict.fromkeys(("recommend", "rank", "similar", "record_events"), limit)

    async def answer(self, body: bytes | Mapping[str, Any]) -> dict[str, Any]:
        assert isinstance(body, bytes)
        return {"request_id": RequestLogContext("recommend").request_id, "body": body.decode("latin-1")}

    recommend = rank = similar = record_events = answer

    def filter_schema(self) -> dict[str, Any]:
        return {}

    def refused_before_operation(self, operation: str, request_id: str, status: int) -> None:
        self.refused_early.append((operation, status))

    def refuse_unread(self, operation: str, request_id: str) -> Overloaded:
        raise AssertionError("there is room")


def app() -> HttpApp:
    return make_app(Echo(), HttpConfig(max_body_bytes=1024, demo=False), ACCESS)  # type: ignore[arg-type]


SERVED = app()


async def with_request_id(scope: Any, receive: Any, send: Any) -> None:
    """The application with the header that Serve's middleware adds."""
    request_id = dict(scope["headers"])[b"x-request-id"]

    async def add(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id)]}
        await send(message)

    await SERVED(scope, receive, add)


def uvicorns() -> dict[str, Any]:
    config = uvicorn.Config(with_request_id, interface="asgi3", lifespan="off", log_config=None, access_log=False)
    config.load()
    return {"config": config, "server_state": ServerState(), "app_state": {}}


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(connections())
def test_every_connection_has_the_same_outcome_with_the_fast_path_and_without(pieces: list[bytes]) -> None:
    async def both() -> None:
        fast_path = FastPath(Echo(), ACCESS, 1024)
        for path in SERVED.operations:
            fast_path.routes[path.encode()] = functools.partial(SERVED._answer_fast, path)
        fast = await outcome(lambda: FastPathConnection(fast_path, **uvicorns()), pieces)
        plain = await outcome(lambda: HttpProtocol(**uvicorns()), pieces)
        assert fast == plain

    asyncio.run(both())
