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
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from starlette.responses import Response

from deployments.api.access import AccessChain, Head
from deployments.api.fast_path.protocol import HttpProtocol
from deployments.api.responses import problem
from deployments.errors import BodyTooLarge, FunnelError, MalformedRequest, Overloaded
from deployments.pipeline.overload.concurrency_limit import ConcurrencyLimit, slot_taken
from deployments.pipeline.overload.refusal_pacing import RefusalPacer
from deployments.pipeline.request import came_at

OPERATIONS = {b"recommend": "recommend", b"rank": "rank", b"similar": "similar", b"events": "record_events"}
"""Last part of a target → the operation."""

OTHER = "other"
"""The operation of every other request, in metrics and log lines."""


def operation_of(path: str) -> str:
    """The operation at a path below the route prefix."""
    prefix, _, name = path.rpartition("/v1/")
    return OTHER if prefix else OPERATIONS.get(name.encode(), OTHER)


Routes = dict[bytes, Callable[[bytes, Head], Awaitable[Response]]]
"""Target of a request → the handler of its body and head."""

log = logging.getLogger("rayfunnel.http")


class BoundedOperations(Protocol):
    """What the fast path serves; `deployments.api.operations.Recommender`."""

    @property
    def limits(self) -> Mapping[str, ConcurrencyLimit]: ...
    def refuse_unread(self, operation: str, request_id: str) -> Overloaded: ...
    def refused_at_the_door(self, operation: str, request_id: str, status: int) -> None: ...


class FastPath:
    """The fast path of one ingress replica and its event loop."""

    def __init__(self, operations: BoundedOperations, access: AccessChain, max_body_bytes: int) -> None:
        self.operations, self.access, self.max_body_bytes = operations, access, max_body_bytes
        self.routes: Routes = {}
        self.pacer = RefusalPacer()

    def protocol(self, **uvicorn: Any) -> FastPathConnection:
        """A connection's protocol. `uvicorn`: the arguments of uvicorn's own."""
        return FastPathConnection(self, **uvicorn)


class FastRequest:
    """A request of the fast path. Its fields are those of uvicorn's `RequestResponseCycle` that uvicorn's protocol
    reads and writes."""

    __slots__ = (
        "body", "connection", "disconnected", "head", "keep_alive", "limit", "message_event", "more_body", "operation",
        "refusing", "response_complete", "response_started", "slot", "target", "task",
    )  # fmt: skip

    def __init__(
        self, connection: FastPathConnection, target: bytes, operation: str, head: Head, keep_alive: bool
    ) -> None:
        self.connection, self.target, self.operation, self.head = connection, target, operation, head
        self.keep_alive = keep_alive
        self.body, self.more_body = bytearray(), True
        self.disconnected = self.response_started = self.response_complete = False
        self.message_event = self
        self.slot: ConcurrencyLimit | None = None
        """The limit of which it holds a slot."""
        self.task: asyncio.Task[None] | None = None
        """Answers it."""
        self.refusing: asyncio.TimerHandle | None = None
        """Refuses it, later."""

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
        if not self._begin_fast_request():
            super().begin_request()

    def _begin_fast_request(self) -> bool:
        prefix, _, name = self.url.rpartition(b"/v1/")
        operation = OPERATIONS.get(name)
        parser = self.parser
        if operation is None or parser.get_method() != b"POST" or b"?" in prefix:
            return False
        if parser.get_http_version() != "1.1" or self.expect_100_continue or parser.should_upgrade():
            return False
        first = self.cycle is None or self.cycle.response_complete
        full = self._fast_path.operations.limits[operation].full
        if (self.url not in self._fast_path.routes and not (full and first)) or self.flow.write_paused:
            return False
        head = Head("POST", f"/v1/{name.decode()}", self.headers, self.client)
        request = FastRequest(self, self.url, operation, head, parser.should_keep_alive())
        self.cycle = request
        if first:
            self._begin_turn(request)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((request, self.app))
        return True

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        # Not in the context of the request before, whose end starts a pipelined one.
        self._context.copy().run(self._start, cycle, app)

    def _start(self, cycle: Any, app: Any) -> None:
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
        if not refusal and _content_length(request.head) > fast_path.max_body_bytes:
            refusal = problem(BodyTooLarge(fast_path.max_body_bytes), request.head.request_id)
        if refusal:
            self._count_refused(request.operation, request.head.request_id, refusal.status_code)
            self._respond(refusal)
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
        self.tasks.add(request.task)
        request.task.add_done_callback(self.tasks.discard)

    def on_body(self, body: bytes) -> None:
        request = self.cycle
        if not isinstance(request, FastRequest):
            super().on_body(body)
        elif not request.response_complete and len(request.body) <= self._fast_path.max_body_bytes:
            request.body += body
            self.proceed()

    async def _answer(self, request: FastRequest) -> None:
        try:
            response = await self._fast_path.routes[request.target](bytes(request.body), request.head)
        except (Exception, asyncio.CancelledError) as error:
            if request.disconnected:
                return
            log.exception("no answer to %s", request.target.decode("latin-1"))
            response = problem(FunnelError(type(error).__name__), request.head.request_id)
        if self.flow.write_paused:
            await self.flow.drain()
        request.leave()
        if not request.disconnected:
            self._respond(response)

    def _refuse(self, request: FastRequest) -> None:
        request_id = request.head.request_id
        refusal = problem(self._fast_path.operations.refuse_unread(request.operation, request_id), request_id)
        now = self.loop.time()
        if (at := self._fast_path.pacer.time_of_next(now)) > now:
            request.refusing = self.loop.call_at(at, self._respond, refusal)
        else:
            self._respond(refusal)

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
        self._fast_path.operations.refused_at_the_door(operation, request_id, status)

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


def _content_length(head: Head) -> int:
    return int(head.get(b"content-length") or 0)  # httptools has checked that it is a number
