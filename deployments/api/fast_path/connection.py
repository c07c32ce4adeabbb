"""Requests before uvicorn and Serve see them: answered here, or refused while the funnel has as many as it can hold.

The layers of both cost more per request than its share of a batch. Past the peak refusing took the time that answering
needed, until nothing was answered in full (benchmarks/NOTES.md). Here it takes a look at the request's head. Clients
who ask again at once are slowed down: of many refusals in a second most are written late. Which targets lead to the
funnel is learned: the first request for each goes through Serve, which routes it.
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

import orjson
from starlette.responses import Response

from deployments.errors import FunnelError, Overloaded, Unavailable
from deployments.pipeline.request import came_at

Answers = dict[bytes, Callable[[bytes, Mapping[bytes, bytes]], Awaitable[Response]]]
"""Target of a request → what answers its body and headers (those of `_HEADERS`, by name in lower case)."""

_OPERATION = re.compile(rb"POST ((?:/[^ ?]*)?/v1/(?:(recommend|rank)|similar|events)) HTTP/1\.1\r\n")
"""Its target, and its name if the funnel computes it: such requests are counted and refused."""
_PLAIN = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*")
"""Header lines about which nobody disagrees: no folded ones, no space before a colon, no control characters."""
_HEADERS = re.compile(
    rb"\r\n(content-length|transfer-encoding|upgrade|expect|connection|proxy-connection|traceparent|x-request-id):([^\r]*)",
    re.IGNORECASE,
)
_NOT_FOLLOWED = {b"transfer-encoding", b"upgrade", b"expect", b"proxy-connection"}
_LONGEST_NUMBER = 15
"""Digits of a content length."""
_MOST_SWALLOWED = 2**20
"""Bytes of a refused request that are waited for; one with more is for `HttpApp` to refuse."""

REFUSALS_PER_S, REFUSALS_AT_ONCE, LONGEST_DELAY_S = 500.0, 200, 0.5
"""So many refusals a second are written without delay, and so many more in a burst; beyond that in turn. The longer
they wait, the more connections are open at a time, and the longer recovery from a stall takes."""

log = logging.getLogger("rayfunnel.http")


@functools.lru_cache(1)
def _date(second: int) -> bytes:
    """The header, for this Unix second."""
    return b"date: %b" % email.utils.formatdate(second, usegmt=True).encode()


class BoundedOperations(Protocol):
    """What the gate stands before; `deployments.api.operations.Recommender`."""

    @property
    def limit(self) -> int: ...
    def refused(self, operation: str) -> None: ...


class FastPath:
    """Of one ingress replica and its event loop."""

    def __init__(self, funnel: BoundedOperations) -> None:
        self.funnel = funnel
        self.answers: Answers = {}
        self._under_way: set[FastPathConnection] = set()
        self._looked = float("-inf")
        self._refused_until = float("-inf")

    def protocol(self, factory: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """A connection's protocol: uvicorn's, which `factory` makes, behind the gate."""
        return FastPathConnection(self, factory())

    def entered(self, connection: FastPathConnection) -> None:
        """A request came through on it."""
        self._under_way.add(connection)

    def left(self, connection: FastPathConnection) -> None:
        """Its request was answered here."""
        self._under_way.discard(connection)

    @property
    def closed(self) -> bool:
        """Whether as many requests are under way as may be."""
        if len(self._under_way) < self.funnel.limit:
            return False
        turn = asyncio.get_running_loop().time()  # the same throughout a turn of uvloop
        if turn != self._looked:
            self._looked = turn
            self._under_way = {connection for connection in self._under_way if connection.busy}
        return len(self._under_way) >= self.funnel.limit

    def refusal_at(self, now: float) -> float:
        """When to write one more refusal, on the clock of `now`; at once if that is over.

        The generic cell rate algorithm (ITU-T I.371), which needs no queue.
        """
        earliest = now - REFUSALS_AT_ONCE / REFUSALS_PER_S
        self._refused_until = min(max(self._refused_until, earliest) + 1 / REFUSALS_PER_S, now + LONGEST_DELAY_S)
        return self._refused_until

    def refusal(self) -> Response:
        """The response to a request that is not let in."""
        return problem(Overloaded(len(self._under_way)))


def problem(error: FunnelError) -> Response:
    """The response that says so (RFC 9457)."""
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, Unavailable) else None
    return Response(orjson.dumps(error.problem()), error.status, headers, "application/problem+json")


class FastPathConnection(asyncio.Protocol):
    """Follows one connection from request to request by their content length. One that can't be followed so (heads in
    pieces or not plain, chunked or pipelined requests) goes to uvicorn unseen from then on.
    """

    def __init__(self, gate: FastPath, inner: Any) -> None:
        self._gate = gate
        self._inner = inner
        """uvicorn's protocol."""
        self._transport: Any = None
        self._context = contextvars.copy_context()
        self._followed = True
        self._taken = False
        """Whether the latest request was answered or refused here."""
        self._rest = 0
        """Bytes of the latest request that have not come yet."""
        self._task: asyncio.Task[None] | None = None
        """Answers the latest request."""
        self._refusing: asyncio.TimerHandle | None = None
        """Refuses the latest request."""
        self._held = b""
        """What came meanwhile."""
        self._last = self._full = False
        """Whether the connection is closed after the next response; whether the peer reads too slowly."""

    @property
    def busy(self) -> bool:
        """Whether a request of this connection is under way."""
        cycle = self._inner.cycle
        return self._task is not None or (cycle is not None and not cycle.response_complete and not cycle.disconnected)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._inner.connection_made(_Transport(transport, self))

    def data_received(self, data: bytes) -> None:
        if self._task or self._refusing:
            self._transport.pause_reading()
            self._held += data
            return
        if self._followed:
            self._rest = self._rest - len(data) if self._rest else self._begin(data)
            self._followed = self._rest >= 0
        if not self._taken:
            came_at.set(time.time())  # uvicorn's task for the request inherits it
            self._inner.data_received(data)
        elif not self._followed:
            self._transport.close()  # the next request came in one piece with the end of the refused one

    def _begin(self, data: bytes) -> int:
        """A request begins: answers it, lets it through or refuses it. Bytes of it that are yet to come; below 0: not
        known."""
        self._taken = False
        start, end = data.find(b"\r\n"), data.find(b"\r\n\r\n")
        if end < 0 or not _PLAIN.fullmatch(data, start + 2, end + 2):
            return -1
        found = _HEADERS.findall(data, start, end + 2)
        headers = {name.lower(): value.strip() for name, value in found}
        length = headers.get(b"content-length", b"0")
        sure = length.isdigit() and len(length) <= _LONGEST_NUMBER and len(headers) == len(found)
        if not sure or not headers.keys().isdisjoint(_NOT_FOLLOWED):
            return -1
        rest = int(length) - (len(data) - end - 4)
        asked = _OPERATION.match(data)
        if rest < 0 or rest > _MOST_SWALLOWED or not asked or self.busy or self._full:
            return rest
        target, computed = asked.groups()
        closing = b"close" in headers.get(b"connection", b"").lower()
        if computed and self._gate.closed:
            self._refuse(computed.decode(), closing, headers)
            return rest
        if not rest and not closing and target in self._gate.answers:
            self._answer(target, data[end + 4 :], headers)
        if computed:
            self._gate.entered(self)
        return rest

    def _answer(self, target: bytes, body: bytes, headers: Mapping[bytes, bytes]) -> None:
        self._taken = True
        came_at.set(time.time())  # the task inherits it
        self._task = asyncio.get_running_loop().create_task(self._respond(target, body, headers))

    async def _respond(self, target: bytes, body: bytes, headers: Mapping[bytes, bytes]) -> None:
        try:
            response = await self._gate.answers[target](body, headers)
        except (Exception, asyncio.CancelledError) as error:
            response = problem(FunnelError(type(error).__name__))
            if self._task:
                log.exception("no answer to %s", target.decode("latin-1"))
        if not self._task:
            return  # the caller has gone
        self._task = None
        self._gate.left(self)
        self._write(response, headers)
        self._go_on()

    def _refuse(self, operation: str, closing: bool, headers: Mapping[bytes, bytes]) -> None:
        self._taken = True
        self._last |= closing
        self._gate.funnel.refused(operation)
        loop = asyncio.get_running_loop()
        now = loop.time()
        if (at := self._gate.refusal_at(now)) > now:
            self._refusing = loop.call_at(at, self._write_refusal, headers)
        else:
            self._write(self._gate.refusal(), headers)

    def _write_refusal(self, headers: Mapping[bytes, bytes]) -> None:
        self._refusing = None
        self._write(self._gate.refusal(), headers)
        self._go_on()

    def _go_on(self) -> None:
        """Takes what came before the response."""
        if (held := self._held) and not self._transport.is_closing():
            self._held = b""
            self._transport.resume_reading()
            self._context.run(self.data_received, held)

    def _write(self, response: Response, headers: Mapping[bytes, bytes]) -> None:
        head = [b"HTTP/1.1 %d %b" % (response.status_code, http.HTTPStatus(response.status_code).phrase.encode())]
        head += [b"%b: %b" % header for header in response.raw_headers]
        head.append(_date(int(time.time())))
        if "x-request-id" not in response.headers and b"x-request-id" in headers:  # what was not computed has none
            head.append(b"x-request-id: " + headers[b"x-request-id"])
        if self._last:
            head.append(b"connection: close")
        self._transport.write(b"\r\n".join([*head, b"", bytes(response.body)]))
        if self._last:
            self._transport.close()
        else:
            self._inner.on_response_complete()  # the time for which uvicorn keeps an idle connection begins

    def close(self) -> None:
        """For uvicorn: closes the connection, after the answer or refusal that is under way."""
        if self._task or self._refusing:
            self._last = True
        else:
            self._transport.close()

    def eof_received(self) -> Any:
        return self._inner.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        if self._refusing:
            self._refusing.cancel()
        if self._task:
            self._task.cancel()
            self._task = None
            self._gate.left(self)
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        self._full = True
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        self._inner.resume_writing()


class _Transport:
    """The connection's, for uvicorn, which ends it when it has been idle or the server stops."""

    def __init__(self, transport: Any, connection: FastPathConnection) -> None:
        self._transport = transport
        self.close = connection.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
