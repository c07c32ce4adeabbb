"""Requests before uvicorn and Serve see them: answered here, or refused while the funnel has as many as it can hold.

The layers of both cost more per request than its share of a batch. Past the peak refusing took the time that answering
needed, until nothing was answered in full (benchmarks/NOTES.md). Here it takes a look at the request's head. Which
targets lead to the funnel is learned: the first request for each goes through Serve, which routes it.
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import http
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import orjson
from starlette.responses import Response

from deployments.errors import Overloaded
from deployments.flow import came_at

Answers = dict[bytes, Callable[[bytes, Mapping[bytes, bytes]], Awaitable[Response]]]
"""Target of a request → what answers its body and headers (those of `_HEADERS`, by name in lower case)."""

_OPERATION = re.compile(rb"POST ((?:/[^ ?]*)?/v1/(?:(recommend|rank)|similar|events)) HTTP/1\.1\r\n")
"""Its target, and its name if the funnel computes it: such requests are counted and refused."""
_HEADERS = re.compile(
    rb"\r\n(content-length|transfer-encoding|upgrade|expect|connection|traceparent|x-request-id):[ \t]*([^\r\n]*)",
    re.IGNORECASE,
)
_NOT_FOLLOWED = {b"transfer-encoding", b"upgrade", b"expect"}
_LONGEST_NUMBER = 15
"""Digits of a content length."""
_MOST_SWALLOWED = 2**20
"""Bytes of a refused request that are waited for; one with more is for `http_api.Door` to refuse."""
_REUSED_S = 10.0
"""Well below Serve's keep-alive time: uvicorn may close a connection that has not brought it a request for longer."""


@functools.lru_cache(1)
def _date(second: int) -> bytes:
    """The header, for this Unix second."""
    return b"date: %b" % email.utils.formatdate(second, usegmt=True).encode()


class Funnel(Protocol):
    """What the gate stands before; `deployments.service.Recommender`."""

    @property
    def limit(self) -> int: ...
    def refused(self, operation: str) -> None: ...


class Gate:
    """Of one ingress replica and its event loop."""

    def __init__(self, funnel: Funnel) -> None:
        self.funnel = funnel
        self.answers: Answers = {}
        self._under_way: set[_Connection] = set()
        self._looked = float("-inf")

    def protocol(self, factory: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """A connection's protocol: uvicorn's, which `factory` makes, behind the gate."""
        return _Connection(self, factory)

    def entered(self, connection: _Connection) -> None:
        """A request came through on it."""
        self._under_way.add(connection)

    def left(self, connection: _Connection) -> None:
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

    def refusal(self) -> Response:
        """The response to a request that is not let in."""
        error = Overloaded(len(self._under_way))
        headers = {"retry-after": str(error.retry_after_s)}
        return Response(orjson.dumps(error.problem()), error.status, headers, "application/problem+json")


class _Connection(asyncio.Protocol):
    """Follows one connection from request to request by their content length. One that can't be followed so (heads in
    pieces, chunked or pipelined requests) goes to uvicorn unseen from then on.
    """

    def __init__(self, gate: Gate, factory: Callable[[], Any]) -> None:
        self._gate, self._factory = gate, factory
        self._inner: Any = None
        """uvicorn's protocol, from the first request on that is not refused."""
        self._transport: Any = None
        self._followed = True
        self._taken = False
        """Whether the latest request was answered or refused here."""
        self._rest = 0
        """Bytes of the latest request that have not come yet."""
        self._passed_at = 0.0
        self._task: asyncio.Task[None] | None = None
        """Answers the latest request."""
        self._held = b""
        """What came meanwhile."""
        self._ends = self._full = False
        """Whether the connection is to be closed after that answer; whether the peer reads too slowly."""

    @property
    def busy(self) -> bool:
        """Whether a request of this connection is under way."""
        cycle = getattr(self._inner, "cycle", None)
        return self._task is not None or (cycle is not None and not cycle.response_complete and not cycle.disconnected)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._task:
            self._transport.pause_reading()
            self._held += data
            return
        if self._followed:
            self._rest = self._rest - len(data) if self._rest else self._begin(data)
            self._followed = self._rest >= 0
        if not self._taken:
            self._pass(data)
        elif not self._followed:
            self._transport.close()  # the next request came in one piece with the end of the refused one

    def _begin(self, data: bytes) -> int:
        """A request begins: answers it, lets it through or refuses it. Bytes of it that are yet to come; below 0: not
        known."""
        self._taken = False
        end = data.find(b"\r\n\r\n")
        found = _HEADERS.findall(data, 0, end + 2)
        headers = {name.lower(): value.rstrip() for name, value in found}
        length = headers.get(b"content-length", b"0")
        plain = length.isdigit() and len(length) <= _LONGEST_NUMBER and len(headers) == len(found)
        lines = data.count(b"\r\n", 0, end) == data.count(b"\n", 0, end)  # else headers are in dispute
        if end < 0 or not plain or not lines or not headers.keys().isdisjoint(_NOT_FOLLOWED):
            return -1
        rest = int(length) - (len(data) - end - 4)
        asked = _OPERATION.match(data)
        if rest < 0 or rest > _MOST_SWALLOWED or not asked:
            return rest
        target, computed = asked.groups()
        if computed and self._gate.closed and not self.busy:
            self._refuse(computed.decode())
            return rest
        if not rest and target in self._gate.answers and self._unhindered(headers):
            self._answer(target, data[end + 4 :], headers)
        if computed:
            self._gate.entered(self)
        return rest

    def _unhindered(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether neither uvicorn nor the peer wants anything else of the connection now or soon."""
        stays = b"close" not in headers.get(b"connection", b"").lower()
        return stays and not self.busy and not self._full and not self._forgotten()

    def _forgotten(self) -> bool:
        """Whether uvicorn had its latest request so long ago that it may soon close the connection."""
        return self._passed_at > 0 and time.time() - self._passed_at > _REUSED_S

    def _answer(self, target: bytes, body: bytes, headers: Mapping[bytes, bytes]) -> None:
        self._taken = True
        self._start()
        came_at.set(time.time())  # the task inherits it
        self._task = asyncio.get_running_loop().create_task(self._respond(target, body, headers))

    async def _respond(self, target: bytes, body: bytes, headers: Mapping[bytes, bytes]) -> None:
        try:
            self._write(await self._gate.answers[target](body, headers), self._ends)
        finally:
            self._task = None
            self._gate.left(self)
        if self._ends:
            self._transport.close()
        elif (held := self._held) and not self._transport.is_closing():
            self._held = b""
            self._transport.resume_reading()
            self.data_received(held)

    def _refuse(self, operation: str) -> None:
        self._taken = True
        last = self._forgotten()
        self._write(self._gate.refusal(), last)
        if last:
            self._transport.close()
        self._gate.funnel.refused(operation)

    def _write(self, response: Response, last: bool) -> None:
        """`last`: on its connection."""
        head = [b"HTTP/1.1 %d %b" % (response.status_code, http.HTTPStatus(response.status_code).phrase.encode())]
        head += [b"%b: %b" % header for header in response.raw_headers]
        head.append(_date(int(time.time())))
        if last:
            head.append(b"connection: close")
        self._transport.write(b"\r\n".join([*head, b"", bytes(response.body)]))

    def _start(self) -> None:
        if self._inner is None:
            self._inner = self._factory()
            self._inner.connection_made(_Transport(self._transport, self))

    def _pass(self, data: bytes) -> None:
        self._start()
        self._passed_at = time.time()
        came_at.set(self._passed_at)  # uvicorn's task for the request inherits it
        self._inner.data_received(data)

    def close(self) -> None:
        """For uvicorn: closes the connection, after the answer that is under way."""
        if self._task:
            self._ends = True
        else:
            self._transport.close()

    def eof_received(self) -> Any:
        return self._inner.eof_received() if self._inner else None

    def connection_lost(self, error: Exception | None) -> None:
        if self._task:
            self._task.cancel()
            self._task = None  # one that has not begun does not come to say so
        if self._inner:
            self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        self._full = True
        if self._inner:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._full = False
        if self._inner:
            self._inner.resume_writing()


class _Transport:
    """The connection's, for uvicorn, which ends it when it has been idle or the server stops."""

    def __init__(self, transport: Any, connection: _Connection) -> None:
        self._transport = transport
        self.close = connection.close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
