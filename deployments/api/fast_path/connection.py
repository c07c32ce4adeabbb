"""The HTTP fast path: the four operations answered, or refused under overload, before uvicorn and Serve see them.

uvicorn's and Serve's layers cost more CPU per request than the stages do. Past the peak, refusing through them took the
time that answering needed, until nothing was answered in full (benchmarks/NOTES.md). The fast path reads a request's
head, takes a slot of the operation's concurrency limit, and calls the operation. It learns the targets: the first
request for each goes through Serve, which routes it.
"""

from __future__ import annotations

import asyncio
import contextvars
import email.utils
import functools
import http
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from starlette.responses import Response

from deployments.api.responses import problem
from deployments.errors import FunnelError, Overloaded
from deployments.pipeline.overload.concurrency_limit import ConcurrencyLimit, slot_taken
from deployments.pipeline.overload.refusal_pacing import RefusalPacer
from deployments.pipeline.request import came_at

Routes = dict[bytes, Callable[[bytes, Mapping[bytes, bytes]], Awaitable[Response]]]
"""Target of a request → the handler of its body and headers (those of `_HEADERS`, by name in lower case)."""

_OPERATION = re.compile(rb"POST ((?:/[^ ?]*)?/v1/(recommend|rank|similar|events)) HTTP/1\.1\r\n")
"""Its target, and the last part of it."""
OPERATIONS = {b"recommend": "recommend", b"rank": "rank", b"similar": "similar", b"events": "record_events"}
_PLAIN = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*")
"""Header lines that every parser reads alike: no folded ones, no space before a colon, no control characters."""
_HEADERS = re.compile(
    rb"\r\n(content-length|transfer-encoding|upgrade|expect|connection|proxy-connection|traceparent|x-request-id):([^\r]*)",
    re.IGNORECASE,
)
_NOT_FOLLOWED = {b"transfer-encoding", b"upgrade", b"expect", b"proxy-connection"}
_LONGEST_NUMBER = 15
"""Digits of a content length."""
MOST_DISCARDED = 2**20
"""Bytes of a refused request's body that are read and discarded; a larger body is left to `HttpApp`, which refuses
it."""

log = logging.getLogger("rayfunnel.http")


@functools.lru_cache(1)
def _date(second: int) -> bytes:
    """The header, for this Unix second."""
    return b"date: %b" % email.utils.formatdate(second, usegmt=True).encode()


class BoundedOperations(Protocol):
    """What the fast path serves; `deployments.api.operations.Recommender`."""

    @property
    def limits(self) -> Mapping[str, ConcurrencyLimit]: ...
    def refuse_unread(self, operation: str) -> Overloaded: ...


class FastPath:
    """The fast path of one ingress replica and its event loop."""

    def __init__(self, operations: BoundedOperations) -> None:
        self.operations = operations
        self.routes: Routes = {}
        self.pacer = RefusalPacer()

    def protocol(self, factory: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """A connection's protocol: the fast path in front of uvicorn's, which `factory` makes."""
        return FastPathConnection(self, factory())


class FastPathConnection(asyncio.Protocol):
    """Follows one connection from request to request by their content length. A connection that can't be followed so
    (heads in pieces or not plain, chunked or pipelined requests) belongs to uvicorn from then on.
    """

    def __init__(self, fast_path: FastPath, uvicorn: Any) -> None:
        self._fast_path = fast_path
        self._uvicorn = uvicorn
        """uvicorn's protocol."""
        self._transport: Any = None
        self._context = contextvars.copy_context()
        self._followed = True
        self._handled = False
        """Whether the fast path answers or refuses the latest request itself."""
        self._unread = 0
        """Bytes of the latest request that have not arrived yet."""
        self._slot: ConcurrencyLimit | None = None
        """The limit of which the request being answered holds a slot."""
        self._answering: asyncio.Task[None] | None = None
        """Answers the latest request."""
        self._refusing: asyncio.TimerHandle | None = None
        """Refuses the latest request, later."""
        self._received = b""
        """Bytes that arrived before their turn: during a response, or of a body that is not complete."""
        self._awaited = 0
        """Bytes of the body that are missing in `_received`."""
        self._close_after = self._write_paused = False
        """Whether the connection closes after the next response; whether the peer reads too slowly."""

    @property
    def _uvicorn_busy(self) -> bool:
        cycle = self._uvicorn.cycle
        return cycle is not None and not cycle.response_complete and not cycle.disconnected

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._uvicorn.connection_made(_Transport(transport, self))

    def data_received(self, data: bytes) -> None:
        if self._answering or self._refusing:
            self._transport.pause_reading()
            self._received += data
            return
        if self._awaited:
            self._received += data
            self._awaited = max(0, self._awaited - len(data))
            if self._awaited:
                return
            data, self._received = self._received, b""
        if self._followed:
            self._unread = self._unread - len(data) if self._unread else self._begin(data)
            self._followed = self._unread >= 0
        if not self._handled:
            self._note_arrival(slot=False)  # uvicorn's task for the request inherits it
            self._uvicorn.data_received(data)
        elif not self._followed:
            self._transport.close()  # the client sent its next request together with the end of the refused one

    def _note_arrival(self, slot: bool) -> None:
        came_at.set(time.time())
        slot_taken.set(slot)

    def _begin(self, data: bytes) -> int:
        """A request begins: answers it, passes it on or refuses it. Returns its bytes that are yet to arrive; a
        negative number if the connection can't be followed."""
        self._handled = False
        start, end = data.find(b"\r\n"), data.find(b"\r\n\r\n")
        if end < 0 or not _PLAIN.fullmatch(data, start + 2, end + 2):
            return -1
        found = _HEADERS.findall(data, start, end + 2)
        headers = {name.lower(): value.strip() for name, value in found}
        length = headers.get(b"content-length", b"0")
        sure = length.isdigit() and len(length) <= _LONGEST_NUMBER and len(headers) == len(found)
        if not sure or not headers.keys().isdisjoint(_NOT_FOLLOWED):
            return -1
        unread = int(length) - (len(data) - end - 4)
        asked = _OPERATION.match(data)
        if unread < 0 or unread > MOST_DISCARDED or not asked or self._uvicorn_busy or self._write_paused:
            return unread
        target, name = asked.groups()
        operation = OPERATIONS[name]
        closing = b"close" in headers.get(b"connection", b"").lower()
        limit = self._fast_path.operations.limits[operation]
        if limit.full:
            self._refuse(operation, closing, headers)
            return unread
        # A request takes its slot once its body is complete: a slow sender must not hold one. Requests for uvicorn take
        # it when their operation begins.
        if not closing and target in self._fast_path.routes:
            if unread:
                self._handled, self._received, self._awaited = True, data, unread
                return 0
            limit.enter()
            self._slot = limit
            self._handled = True
            self._note_arrival(slot=True)  # the task inherits it
            answer = self._answer(target, data[end + 4 :], headers)
            self._answering = asyncio.get_running_loop().create_task(answer)
        return unread

    async def _answer(self, target: bytes, body: bytes, headers: Mapping[bytes, bytes]) -> None:
        try:
            response = await self._fast_path.routes[target](body, headers)
        except (Exception, asyncio.CancelledError) as error:
            response = problem(FunnelError(type(error).__name__))
            if self._answering:
                log.exception("no answer to %s", target.decode("latin-1"))
        if not self._answering:
            return  # the caller has gone
        self._answering = None
        self._leave()
        self._write(response, headers)
        self._resume()

    def _refuse(self, operation: str, closing: bool, headers: Mapping[bytes, bytes]) -> None:
        self._handled = True
        self._close_after |= closing
        refusal = problem(self._fast_path.operations.refuse_unread(operation))
        loop = asyncio.get_running_loop()
        now = loop.time()
        if (at := self._fast_path.pacer.time_of_next(now)) > now:
            self._refusing = loop.call_at(at, self._write_refusal, refusal, headers)
        else:
            self._write(refusal, headers)

    def _write_refusal(self, refusal: Response, headers: Mapping[bytes, bytes]) -> None:
        self._refusing = None
        self._write(refusal, headers)
        self._resume()

    def _resume(self) -> None:
        """Reads what arrived before the response."""
        if (received := self._received) and not self._transport.is_closing():
            self._received = b""
            self._transport.resume_reading()
            self._context.run(self.data_received, received)

    def _write(self, response: Response, headers: Mapping[bytes, bytes]) -> None:
        head = [b"HTTP/1.1 %d %b" % (response.status_code, http.HTTPStatus(response.status_code).phrase.encode())]
        head += [b"%b: %b" % header for header in response.raw_headers]
        head.append(_date(int(time.time())))
        if "x-request-id" not in response.headers and b"x-request-id" in headers:  # a refusal has no id of its own
            head.append(b"x-request-id: " + headers[b"x-request-id"])
        if self._close_after:
            head.append(b"connection: close")
        self._transport.write(b"\r\n".join([*head, b"", bytes(response.body)]))
        if self._close_after:
            self._transport.close()
        else:
            self._uvicorn.on_response_complete()  # uvicorn's timer for idle connections starts

    def _leave(self) -> None:
        if self._slot:
            self._slot.leave()
            self._slot = None

    def close(self) -> None:
        """For uvicorn: closes the connection, after the response that is under way."""
        if self._answering or self._refusing:
            self._close_after = True
        else:
            self._transport.close()

    def eof_received(self) -> Any:
        return self._uvicorn.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        if self._refusing:
            self._refusing.cancel()
        if self._answering:
            self._answering.cancel()
            self._answering = None
        self._leave()
        self._uvicorn.connection_lost(error)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._uvicorn.pause_writing()

    def resume_writing(self) -> None:
        self._write_paused = False
        self._uvicorn.resume_writing()


class _Transport:
    """The connection's transport as uvicorn sees it: `close` waits for the response that is under way."""

    def __init__(self, transport: Any, connection: FastPathConnection) -> None:
        self._transport = transport
        self.close = connection.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
