"""HTTP over `Recommender`: the ASGI application. A body is parsed once; errors are RFC 9457 problem documents.

`HttpApp` answers the four operations before FastAPI's layers, which cost a quarter of the ingress' CPU
(benchmarks/NOTES.md). FastAPI serves everything else, and describes the operations in the OpenAPI document. The size of
a body is checked before it is parsed: by Content-Length, then by counting. Once Serve has routed a request for a target
here, the HTTP fast path calls the operation itself (fast_path/connection.py).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from deployments.api import html_pages, openapi
from deployments.api.access import AccessChain, CorsConfig, Head
from deployments.api.content_encoding import decoded
from deployments.api.fast_path.routes import Routes, operation_of
from deployments.api.response_schemas import EventsResponse, RankResponse, RecommendResponse, SimilarResponse
from deployments.api.responses import problem
from deployments.api.schemas import Body, EventsRequest, RankRequest, RecommendRequest, SimilarRequest
from deployments.errors import BodyTooLarge, FunnelError
from deployments.pipeline.request import came_at
from monitoring.logs import tracing
from monitoring.logs.context import incoming_request_id, incoming_trace, trace_of
from monitoring.metrics.declarations import CONTENT_TYPE

log = logging.getLogger("rayfunnel.http")


class HttpConfig(BaseModel):
    """What HTTP serves, and the limit on a body."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    demo: bool = True
    """Whether the page at / is served, and the routes that it reads: any user's history, by id."""
    max_body_bytes: int = Field(1_048_576, ge=1024)
    """Larger bodies are refused with 413. One that announces its length is not read, another up to the limit."""
    cors: CorsConfig | None = None
    """Which pages of other origins may call the API; none by default."""
    checks: list[str] = Field(default_factory=list)
    """Your own checks of a request's head, `module:callable`, called before its body is parsed; see
    deployments/api/access.py."""
    direct: bool = True
    """Whether the HTTP fast path answers the four operations before uvicorn and Serve's wrapper. Serve's own metrics of
    the ingress then leave them out; ours count them. Off while Serve's tracing is on."""


class HttpOperations(html_pages.PageOperations, Protocol):
    """What HTTP calls; `deployments.api.operations.Recommender`."""

    def recommend(self, body: bytes | Mapping[str, Any], /) -> Awaitable[dict[str, Any]]: ...
    def rank(self, body: bytes | Mapping[str, Any], /) -> Awaitable[dict[str, Any]]: ...
    def similar(self, body: bytes | Mapping[str, Any], /) -> Awaitable[dict[str, Any]]: ...
    def record_events(self, body: bytes | Mapping[str, Any], /) -> Awaitable[dict[str, Any]]: ...
    async def health(self) -> dict[str, Any]: ...
    async def metrics(self) -> bytes: ...
    def filter_schema(self) -> dict[str, Any]: ...
    def refused_before_operation(self, operation: str, request_id: str, status: int) -> None: ...


Run = Callable[[bytes], Awaitable[dict[str, Any]]]
"""An operation, from a body to its answer."""


def make_app(
    operations: HttpOperations, config: HttpConfig, access: AccessChain, routes: Routes | None = None
) -> HttpApp:
    """The ASGI application. `routes`: those of the fast path before it."""
    app = HttpApp(config.max_body_bytes, access, operations.refused_before_operation, routes if config.direct else None)
    app.add_exception_handler(FunnelError, _funnel_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)

    def post(path: str, model: type[Body], operation: Run, status: int, answer: type[BaseModel]) -> None:
        app.operations[path] = operation, status
        app.add_api_route(
            path,
            _documented,
            methods=["POST"],
            name=path.rsplit("/", 1)[1],
            description=getattr(operation, "__doc__", None),
            status_code=status,
            response_class=Response,
            openapi_extra={"requestBody": openapi.body(model, operations.filter_schema())},
            responses=openapi.responses(status, answer),
        )

    post("/v1/recommend", RecommendRequest, operations.recommend, 200, RecommendResponse)
    post("/v1/rank", RankRequest, operations.rank, 200, RankResponse)
    post("/v1/similar", SimilarRequest, operations.similar, 200, SimilarResponse)
    post("/v1/events", EventsRequest, operations.record_events, 202, EventsResponse)

    # Serve searches the routes in order for every request; FastAPI puts its own documents first.
    app.router.routes.sort(key=lambda route: getattr(route, "path", "") not in app.operations)

    @app.get("/v1/health/live", response_class=Response, responses=openapi.responses(200))
    async def live() -> Response:
        """200 while the process answers."""
        return _json({"status": "live"})

    @app.get("/metrics", response_class=Response, responses=openapi.responses(200, media_type="text/plain"))
    async def metrics() -> Response:
        """Prometheus text: totals of the whole application."""
        return Response(await operations.metrics(), media_type=CONTENT_TYPE)

    @app.get("/v1/health/ready", response_class=Response, responses=openapi.responses(200))
    async def ready() -> Response:
        """200 once every stage has answered; says what is degraded."""
        return _json(await operations.health())

    @app.get("/v1/drift", response_class=Response, responses=openapi.responses(200))
    async def drift() -> Response:
        """Whether live traffic has drifted from what the model was trained for: a verdict per signal."""
        return _json(await operations.drift())

    html_pages.add_drift_pages(app, operations)
    if config.demo:
        html_pages.add_demo(app, operations)
    return app


async def _documented() -> None:
    raise AssertionError("HttpApp answers the operations before FastAPI routes them")


def _json(content: Any, status: int = 200, media_type: str = "application/json", **headers: str) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type)


def _with_headers(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> Send:
    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *headers]}
        await send(message)

    return send_more


def _counted(send: Send, refused: Callable[[int], None]) -> Send:
    """Calls `refused` with a status of 4xx or 500. (503 is what health checks of a server that starts are told.)"""

    async def send_counted(message: Message) -> None:
        if message["type"] == "http.response.start" and 400 <= message["status"] <= 500:
            refused(message["status"])
        await send(message)

    return send_counted


async def _funnel_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, FunnelError)
    return problem(error)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    content = {"type": "about:blank", "title": error.detail, "status": error.status_code, "detail": "see /docs"}
    if request_id := incoming_request_id.get():
        content["request_id"] = request_id
    return _json(content, error.status_code, "application/problem+json", **(error.headers or {}))


async def _bug(_: Request | None, error: Exception) -> Response:
    return problem(FunnelError(f"{type(error).__name__}; the replica's log has the details"))


class HttpApp(FastAPI):
    """FastAPI, with `operations` (path → the function to call with the body, and the status of success) before it.

    A body over `max_body_bytes` is refused with 413, without parsing and without reading past the limit. `HttpApp` adds
    an operation to `routes`, those of the fast path, when Serve has routed a request for it here.
    """

    def __init__(
        self,
        max_body_bytes: int,
        access: AccessChain,
        refused: Callable[[str, str, int], None],
        routes: Routes | None = None,
    ) -> None:
        super().__init__(title="rayfunnel", summary="Recommendations from a funnel of stages on Ray Serve.")
        self.operations: dict[str, tuple[Run, int]] = {}
        self._access, self._refused = access, refused
        self._max_body_bytes = max_body_bytes
        self._fast_routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, if the access chain lets it in."""
        if scope["type"] == "websocket":  # there is nothing to connect to
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        head = Head(scope["method"], path, scope["headers"], scope.get("client"))
        incoming_request_id.set(head.request_id)
        if headers := self._access.response_headers(head):
            send = _with_headers(send, headers)
        refused = functools.partial(self._refused, operation_of(path), head.request_id)
        if answer := self._access.enter(head):
            await answer(scope, receive, _counted(send, refused))
        elif head.content_length > self._max_body_bytes:
            await problem(BodyTooLarge(self._max_body_bytes))(scope, receive, _counted(send, refused))
        elif head.method == "POST" and path in self.operations:
            await self._operate(path, head, scope, receive, send)
        elif head.method == "HEAD":
            # As GET; uvicorn leaves the body out.
            await super().__call__({**scope, "method": "GET"}, receive, _counted(send, refused))
        else:
            await super().__call__(scope, receive, _counted(send, refused))

    async def _operate(self, path: str, head: Head, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._body(receive)
        except ClientDisconnect:
            return
        except BodyTooLarge as error:
            response = self._refusal(path, head, error)
        else:
            self._add_fast_route(scope, path)
            response = await self._answer(path, body, head)
        await response(scope, receive, send)

    def _add_fast_route(self, scope: Scope, path: str) -> None:
        target = scope.get("raw_path")
        if self._fast_routes is not None and target == scope["path"].encode() and not tracing.on():
            self._fast_routes[target] = functools.partial(self._answer_fast, path)

    async def _answer_fast(self, path: str, body: bytes, head: Head) -> Response:
        """For the fast path, whose requests have passed the access chain."""
        incoming_request_id.set(head.request_id)
        if len(body) > self._max_body_bytes:
            return self._refusal(path, head, BodyTooLarge(self._max_body_bytes))
        return await self._answer(path, body, head)

    async def _answer(self, path: str, body: bytes, head: Head) -> Response:
        operation, status = self.operations[path]
        incoming_trace.set(trace_of(head.headers))
        if encoding := head.get(b"content-encoding"):
            try:
                body = decoded(body, encoding, self._max_body_bytes)
            except FunnelError as error:
                return self._refusal(path, head, error)
        try:
            return _json(await operation(body), status)
        except FunnelError as error:
            return problem(error)
        except Exception as error:
            log.exception("%s failed", path)
            return await _bug(None, error)

    def _refusal(self, path: str, head: Head, error: FunnelError) -> Response:
        """The answer to a request that no operation has seen."""
        self._refused(operation_of(path), head.request_id, error.status)
        return problem(error)

    async def _body(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise BodyTooLarge(self._max_body_bytes)
            if not message.get("more_body", False):
                return bytes(body)
            came_at.set(0.0)  # its deadline counts from the last piece of the body
