"""Refuses requests as they come in, before uvicorn and Serve see them, while the funnel has as many as it can hold.

Under load the layers of both cost more per request than its share of a batch. Past the peak refusing took the time that
answering needed, until nothing was answered in full (benchmarks/NOTES.md). Here it takes a look at the request's head.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, Protocol

import orjson

from deployments.errors import Overloaded
from deployments.flow import came_at

_OPERATION = re.compile(rb"POST (?:/[^ ?]*)?/v1/(recommend|rank) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_NO_LENGTH = re.compile(rb"\r\n(?:transfer-encoding|upgrade|expect):", re.IGNORECASE)
_MOST_SWALLOWED = 2**20
"""Bytes of a refused request that are waited for; one with more is for `http_api.Door` to refuse."""
_REUSED_S = 10.0
"""Well below Serve's keep-alive time: uvicorn may close a connection that has not brought it a request for longer."""


class Funnel(Protocol):
    """What the gate stands before; `deployments.service.Recommender`."""

    @property
    def limit(self) -> int: ...
    def refused(self, operation: str) -> None: ...


class Gate:
    """Of one ingress replica and its event loop."""

    def __init__(self, funnel: Funnel) -> None:
        self.funnel = funnel
        self._under_way: set[_Connection] = set()
        self._looked = float("-inf")

    def protocol(self, factory: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """A connection's protocol: uvicorn's, which `factory` makes, behind the gate."""
        return _Connection(self, factory)

    def entered(self, connection: _Connection) -> None:
        """A request came through on it."""
        self._under_way.add(connection)

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

    def refusal(self, last: bool) -> bytes:
        """The response; `last`: on its connection."""
        body = orjson.dumps(Overloaded(len(self._under_way)).problem())
        return (
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n"
            b"retry-after: %d\r\ncontent-length: %d\r\n%b\r\n%b"
        ) % (Overloaded.retry_after_s, len(body), b"connection: close\r\n" if last else b"", body)


class _Connection(asyncio.Protocol):
    """Follows one connection from request to request by their content length. One that can't be followed so (heads in
    pieces, chunked or pipelined requests) goes to uvicorn unseen from then on.
    """

    def __init__(self, gate: Gate, factory: Callable[[], Any]) -> None:
        self._gate, self._factory = gate, factory
        self._inner: Any = None
        """uvicorn's protocol, from the first request on that comes through."""
        self._transport: Any = None
        self._followed = True
        self._refusing = False
        self._rest = 0
        """Bytes of the latest request that have not come yet."""
        self._passed_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether a request of this connection is under way."""
        cycle = getattr(self._inner, "cycle", None)
        return cycle is not None and not cycle.response_complete and not cycle.disconnected

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._followed:
            self._rest = self._rest - len(data) if self._rest else self._begin(data)
            self._followed = self._rest >= 0
        if not self._refusing:
            self._pass(data)
        elif not self._followed:
            self._transport.close()  # the next request came in one piece with the end of the refused one

    def _begin(self, data: bytes) -> int:
        """A request begins: lets it in or refuses it. Bytes of it that are yet to come; below 0: not known."""
        self._refusing = False
        end = data.find(b"\r\n\r\n")
        if end < 0 or _NO_LENGTH.search(data, 0, end + 2):
            return -1
        length = _LENGTH.search(data, 0, end + 2)
        rest = (int(length[1]) if length else 0) - (len(data) - end - 4)
        asked = _OPERATION.match(data)
        if rest < 0 or rest > _MOST_SWALLOWED or not asked:
            return rest
        if self._gate.closed and not self.busy:
            self._refuse(asked[1].decode())
        else:
            self._gate.entered(self)
        return rest

    def _refuse(self, operation: str) -> None:
        self._refusing = True
        last = self._inner is not None and time.time() - self._passed_at > _REUSED_S
        self._transport.write(self._gate.refusal(last))
        if last:
            self._transport.close()
        self._gate.funnel.refused(operation)

    def _pass(self, data: bytes) -> None:
        if self._inner is None:
            self._inner = self._factory()
            self._inner.connection_made(self._transport)
        self._passed_at = time.time()
        came_at.set(self._passed_at)  # uvicorn's task for the request inherits it
        self._inner.data_received(data)

    def eof_received(self) -> Any:
        return self._inner.eof_received() if self._inner else None

    def connection_lost(self, error: Exception | None) -> None:
        if self._inner:
            self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        if self._inner:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner:
            self._inner.resume_writing()
