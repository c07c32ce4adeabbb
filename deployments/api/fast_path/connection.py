"""The HTTP fast path: the four operations answered, or refused under overload, before uvicorn and Serve see them.

uvicorn's and Serve's layers cost more CPU per request than the stages do. Past the peak, refusing through them took the
time that answering needed, until nothing was answered in full (benchmarks/NOTES.md). uvicorn's own protocol reads the
requests (protocol.py). A POST to one of the four operations becomes a `FastRequest` instead of uvicorn's
`RequestResponseCycle`: it passes the access chain, takes a slot of the operation's concurrency limit once its body is
there, and calls the operation. The fast path learns the targets: the first request for each goes through Serve, which
routes it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from typing import Any

from starlette.responses import Response

from deployments.api.access import Head
from deployments.api.fast_path.protocol import HttpProtocol
from deployments.api.fast_path.routes import OPERATIONS, OTHER, FastPath, Handler
from deployments.api.responses import problem
from deployments.errors import BodyTooLarge, FunnelError, MalformedRequest
from deployments.pipeline.overload.concurrency_limit import ConcurrencyLimit, slot_taken
from deployments.pipeline.request import came_at

log = logging.getLogger("rayfunnel.http")


class FastRequest:
    """A request of the fast path. Its fields are those of uvicorn's `RequestResponseCycle` that uvicorn's protocol
    reads and writes."""

    __slots__ = (
        "body", "connection", "disconnected", "handler", "head", "keep_alive", "more_body", "operation", "refusing",
        "response_complete", "response_started", "slot", "task",
    )  # fmt: skip

    def __init__(
        self, connection: FastPathConnection, handler: Handler | None, operation: str, head: Head, keep_alive: bool
    ) -> None:
        self.connection, self.handler, self.operation, self.head = connection, handler, operation, head
        self.keep_alive = keep_alive
        self.body, self.more_body = bytearray(), True
        self.disconnected = self.response_started = self.response_complete = False
        self.slot: ConcurrencyLimit | None = None
        """The limit of which it holds a slot."""
        self.task: asyncio.Task[None] | None = None
        """Answers it."""
        self.refusing: asyncio.Handle | None = None
        """Refuses it, later."""

    @property
    def message_event(self) -> FastRequest:
        """Itself: `set` is the one method that uvicorn's protocol calls. (No attribute: a cycle waits for the garbage
        collector.)"""
        return self

    def set(self) -> None:
        """uvicorn's protocol has changed `more_body` or `disconnected`."""
        self.connection.proceed()

    def leave(self) -> None:
        """Gives the slot back."""
        if self.slot:
            self.slot.leave()
            self.slot = None


class FastPathConnection(HttpProtocol):
    """A connection whose POSTs to the four operations take the fast path; all else is uvicorn's."""

    def __init__(self, fast_path: FastPath, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._fast_path = fast_path
        self._turn: FastRequest | None = None
        """The request of the fast path whose response is next."""
        self._context = contextvars.copy_context()

    def begin_request(self) -> None:
        self._unset_keepalive_if_required()  # the end of the request before it may have been in the same bytes
        if not self._begin_fast_request():
            super().begin_request()

    def _begin_fast_request(self) -> bool:
        prefix, _, name = self.url.rpartition(b"/v1/")
        operation = OPERATIONS.get(name)
        parser = self.parser
        if operation is None or parser.get_method() != b"POST" or b"?" in prefix:
            return False
        if parser.get_http_version() != "1.1" or self.expect_100_continue or parser.should_upgrade() or self.root_path:
            return False
        first = self.cycle is None or self.cycle.response_complete
        full = self._fast_path.operations.limits[operation].full
        handler = self._fast_path.routes.get(self.url)
        if (handler is None and not (full and first)) or self.flow.write_paused:
            return False
        head = Head("POST", f"/v1/{name.decode()}", self.headers, self.client)
        request = FastRequest(self, handler, operation, head, parser.should_keep_alive())
        self.cycle = request
        if first:
            self._begin_turn(request)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((request, self.app))
        return True

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        # Neither on the stack nor in the context of the request before it, whose end starts a pipelined one.
        self.loop.call_soon(self._start, cycle, app, context=self._context.copy())

    def _start(self, cycle: Any, app: Any) -> None:
        if self.transport.is_closing():
            return
        if isinstance(cycle, FastRequest) and not (self._fault and cycle.more_body):
            self._begin_turn(cycle)
        else:
            came_at.set(time.time())  # uvicorn's task for the request inherits it
            super()._start_asgi_task(cycle, app)

    def _begin_turn(self, request: FastRequest) -> None:
        """The response to `request` is next on the connection."""
        self._turn = request
        fast_path = self._fast_path
        refusal = fast_path.access.enter(request.head)
        if not refusal and request.head.content_length > fast_path.max_body_bytes:
            refusal = problem(BodyTooLarge(fast_path.max_body_bytes), request.head.request_id)
        if refusal:
            self._count_refused(request.operation, request.head.request_id, refusal.status_code)
            self._respond_soon(request, refusal)
        elif fast_path.operations.limits[request.operation].full:
            self._refuse(request)
        else:
            self.proceed()

    def proceed(self) -> None:
        """Answers the request whose turn it is, once its body is there. A slow sender holds no slot."""
        request = self._turn
        if request is None or request.task or request.refusing or request.disconnected:
            return
        if request.more_body and len(request.body) <= self._fast_path.max_body_bytes:
            return
        limit = self._fast_path.operations.limits[request.operation]
        if limit.full:
            self._refuse(request)
            return
        limit.enter()
        request.slot = limit
        context = contextvars.copy_context()
        context.run(_note_arrival)
        request.task = self.loop.create_task(self._answer(request), context=context)

    def on_body(self, body: bytes) -> None:
        request = self.cycle
        if not isinstance(request, FastRequest):
            super().on_body(body)
        elif request.response_complete or request.refusing:
            return
        elif len(request.body) <= self._fast_path.max_body_bytes:
            request.body += body
            self.proceed()

    async def _answer(self, request: FastRequest) -> None:
        assert request.handler is not None
        try:
            response = await request.handler(bytes(request.body), request.head)
        except (Exception, asyncio.CancelledError) as error:
            if request.disconnected:
                return
            log.exception("no answer to %s", request.head.path)
            response = problem(FunnelError(type(error).__name__), request.head.request_id)
        request.leave()  # a peer that does not read holds no slot
        if self.flow.write_paused:
            await self.flow.drain()
        if not request.disconnected:
            self._respond(response)

    def _refuse(self, request: FastRequest) -> None:
        request_id = request.head.request_id
        refusal = problem(self._fast_path.operations.refuse_unread(request.operation, request_id), request_id)
        now = self.loop.time()
        if (at := self._fast_path.pacer.time_of_next(now)) > now:
            request.refusing = self.loop.call_at(at, self._respond, refusal)
        else:
            self._respond_soon(request, refusal)

    def _respond_soon(self, request: FastRequest, refusal: Response) -> None:
        """Once the bytes that have arrived are parsed: if the rest is malformed, the answer is 400, as uvicorn's."""
        request.refusing = self.loop.call_soon(self._respond, refusal)

    def _respond(self, response: Response) -> None:
        """Writes the response of the request whose turn it is."""
        request, self._turn = self._turn, None
        assert request is not None
        if self.transport.is_closing():
            return
        headers = [*response.raw_headers, (b"x-request-id", request.head.request_id.encode())]
        headers += self._fast_path.access.response_headers(request.head)
        request.response_started = request.response_complete = True
        self.write_response(response.status_code, headers, bytes(response.body), close=not request.keep_alive)
        if not request.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _count_refused(self, operation: str, request_id: str, status: int) -> None:
        self._fast_path.operations.refused_before_operation(operation, request_id, status)

    def refused_malformed(self, request_id: str) -> None:
        self._count_refused(OTHER, request_id, MalformedRequest.status)

    def connection_lost(self, exc: Exception | None) -> None:
        if request := self._turn:
            request.disconnected = True
            if request.refusing:
                request.refusing.cancel()
            if request.task:
                request.task.cancel()
            request.leave()
            self._turn = None
        super().connection_lost(exc)


def _note_arrival() -> None:
    """In the context of a request's task: its time counts from now, and it holds a slot."""
    came_at.set(time.time())
    slot_taken.set(True)
