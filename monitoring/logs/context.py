"""The log context: the request, or the batch of requests, that a log line belongs to, and its ids.

A line that a batch logs carries the ids of all its requests, at the ingress and in the replicas of the stages.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from monitoring.logs import tracing

incoming_trace: ContextVar[str] = ContextVar("incoming_trace", default="")
"""Trace id that came with the request, 32 hexadecimal digits."""


incoming_request_id: ContextVar[str] = ContextVar("incoming_request_id", default="")
"""The request's id, from its X-Request-ID header; empty: it is to be made."""


_TRACE = re.compile("(?!0{32})[0-9a-f]{32}")


class LogContext(Protocol):
    """What a log line belongs to: a request or a batch."""

    def fields(self) -> Mapping[str, Any]:
        """Fields of every line in this context, by their dotted ECS names."""
        ...


log_context: ContextVar[LogContext | None] = ContextVar("log_context", default=None)


class LoggedBatch(Protocol):
    """The fields of `deployments.pipeline.batch.BatchState` that the line of a request needs."""

    @property
    def batch_id(self) -> str: ...
    @property
    def began(self) -> float: ...
    @property
    def size(self) -> int: ...
    @property
    def timings_ms(self) -> Mapping[str, float]: ...


class RequestLogContext:
    """One request: its ids from the start, the rest is filled in while the request is processed."""

    __slots__ = ("batch", "degraded", "events", "operation", "request_id", "span", "trace_id", "user_id")

    def __init__(self, operation: str, request_id: str = "") -> None:
        self.operation = operation
        self.request_id = request_id or incoming_request_id.get() or new_id()
        self.span = tracing.current_span()
        self.trace_id = tracing.trace_id(self.span) if self.span else incoming_trace.get() or _as_trace(self.request_id)
        self.user_id = ""
        self.degraded: Sequence[str] = ()
        self.batch: LoggedBatch | None = None
        self.events = 0
        """Events in a call of `record_events`."""

    def fields(self) -> dict[str, Any]:
        """See `LogContext`."""
        return {"http.request.id": self.request_id, "trace.id": self.trace_id}


@dataclass(frozen=True, slots=True)
class BatchLogContext:
    """One batch, or several that a replica computes together. It travels with the batch to the replicas.

    `requests`: (request id, trace id) of each request.
    """

    batch_id: str | list[str]
    """A list if several batches are computed together."""
    requests: Sequence[tuple[str, str]] = ()

    @classmethod
    def joined(cls, batches: Sequence[BatchLogContext]) -> BatchLogContext:
        """The context of several batches that a replica computes together."""
        ids = [str(batch.batch_id) for batch in batches]
        return cls(_one_or_all(ids), [request for batch in batches for request in batch.requests])

    @classmethod
    def of(cls, batch_id: str, requests: Iterable[RequestLogContext | None]) -> BatchLogContext:
        """The context of a batch of `requests`; None: a request of the warm-up, which has no caller."""
        return cls(batch_id, [(request.request_id, request.trace_id) for request in requests if request])

    def fields(self) -> dict[str, Any]:
        """See `LogContext`. An id is a string, or a list if there are several."""
        fields: dict[str, Any] = {"rayfunnel.batch.id": self.batch_id}
        if self.requests:
            fields["http.request.id"] = _one_or_all([request_id for request_id, _ in self.requests])
            fields["trace.id"] = _one_or_all([trace_id for _, trace_id in self.requests])
        return fields


def current_request() -> RequestLogContext | None:
    """The request that is being processed; None: none is."""
    found = log_context.get()
    return found if isinstance(found, RequestLogContext) else None


def current_batch() -> BatchLogContext:
    """The batch that is being computed; with an empty id if none is."""
    found = log_context.get()
    return found if isinstance(found, BatchLogContext) else BatchLogContext("")


def new_id() -> str:
    """A request or trace id: 32 hexadecimal digits."""
    return f"{random.getrandbits(128):032x}"


def _as_trace(request_id: str) -> str:
    """The trace id of a request that came without one: its own id if that can be one, else a new one."""
    return request_id if _valid_trace(request_id) else new_id()


def _valid_trace(trace: str) -> bool:
    return _TRACE.fullmatch(trace) is not None


def new_batch_id() -> str:
    """16 hexadecimal digits."""
    return f"{random.getrandbits(64):016x}"


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The trace id in the W3C `traceparent` among these headers, names in lower case; empty if there is none, or it is
    not valid (https://www.w3.org/TR/trace-context/)."""
    for name, value in headers:
        if name == b"traceparent":
            parts = value.decode("latin-1").split("-")
            trace = parts[1] if len(parts) >= 4 and len(parts[0]) == 2 else ""
            return trace if _valid_trace(trace) else ""
    return ""


def _one_or_all(ids: list[str]) -> str | list[str]:
    return ids[0] if len(ids) == 1 else ids
