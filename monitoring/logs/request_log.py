"""A line per request, within bounds, and what ties the others to requests: the ids of request, trace and batch.

A line that a batch logs carries the ids of all its requests, in a stage's replica as at the ingress. User ids are
written as keyed hashes; item ids, filters, contexts and bodies never are.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from monitoring.logs import tracing
from monitoring.logs.ecs import FIELDS, LogConfig, bound

log = logging.getLogger("rayfunnel.requests")

KEY_VARIABLE = "RAYFUNNEL_LOG_KEY"
"""Environment variable with the secret of the hashes, the same for every process whose lines are to be compared."""

incoming_trace: ContextVar[str] = ContextVar("incoming_trace", default="")
"""Trace id that came with the request, 32 hexadecimal digits."""


class Pseudonyms:
    """Stand-ins for user ids: the same for the same user, and of no use to who lacks the key."""

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.blake2b(key, digest_size=32).digest()

    @classmethod
    def of(cls, fallback: bytes) -> Pseudonyms:
        """With the key that the environment names, else `fallback`."""
        return cls(os.environ.get(KEY_VARIABLE, "").encode() or fallback)

    @classmethod
    def random(cls) -> Pseudonyms:
        """With a key that nobody else has."""
        return cls(secrets.token_bytes(32))

    def text(self, user_id: str) -> str:
        """For log lines, 32 hexadecimal digits."""
        return self._digest(user_id, 16, b"rayfunnel log").hex()

    def number(self, user_id: str) -> int:
        """For columns, 64 bits."""
        return int.from_bytes(self._digest(user_id, 8, b"rayfunnel drift"), "big")

    def _digest(self, user_id: str, size: int, purpose: bytes) -> bytes:
        text = user_id.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=size, key=self._key, person=purpose).digest()


class Travelled(Protocol):
    """The batch that answered; `deployments.pipeline.batch.BatchState`."""

    @property
    def batch_id(self) -> str: ...
    @property
    def began(self) -> float: ...
    @property
    def size(self) -> int: ...
    @property
    def timings_ms(self) -> Mapping[str, float]: ...


class RequestRecord:
    """What is known of a request while it is answered."""

    __slots__ = ("batch", "degraded", "events", "operation", "request_id", "span", "trace_id", "user_id")

    def __init__(self, operation: str) -> None:
        self.operation = operation
        self.request_id = f"{random.getrandbits(128):032x}"
        self.span = tracing.current_span()
        self.trace_id = tracing.trace_id(self.span) if self.span else incoming_trace.get() or self.request_id
        self.user_id = ""
        self.degraded: Sequence[str] = ()
        self.batch: Travelled | None = None
        self.events = 0
        """Of a call that records some."""

    def fields(self) -> dict[str, Any]:
        """What every line of this request carries."""
        return {"http.request.id": self.request_id, "trace.id": self.trace_id}


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What the lines of a batch carry, at the ingress and in the stages' replicas, to which it travels. `requests`:
    (request id, trace id) of those whose batch it is."""

    batch_id: str | list[str]
    """A list: of batches that are computed together."""
    requests: Sequence[tuple[str, str]] = ()

    @classmethod
    def joined(cls, batches: Sequence[BatchRecord]) -> BatchRecord:
        """Batches that a replica computes together."""
        ids = [str(batch.batch_id) for batch in batches]
        return cls(_one_or_all(ids), [request for batch in batches for request in batch.requests])

    @classmethod
    def of(cls, batch_id: str, requests: Iterable[RequestRecord | None]) -> BatchRecord:
        """The batch of these requests; None: of a request that nobody sent, as in the warm-up."""
        return cls(batch_id, [(request.request_id, request.trace_id) for request in requests if request])

    def fields(self) -> dict[str, Any]:
        """The id of the batch, and those of its requests: one, or a list."""
        fields: dict[str, Any] = {"rayfunnel.batch.id": self.batch_id}
        if self.requests:
            fields["http.request.id"] = _one_or_all([request_id for request_id, _ in self.requests])
            fields["trace.id"] = _one_or_all([trace_id for _, trace_id in self.requests])
        return fields


def current_request() -> RequestRecord | None:
    """The request that is answered here."""
    found = bound.get()
    return found if isinstance(found, RequestRecord) else None


def current_batch() -> BatchRecord:
    """The batch that is computed here; without an id: none."""
    found = bound.get()
    return found if isinstance(found, BatchRecord) else BatchRecord("")


def new_batch_id() -> str:
    """16 hexadecimal digits."""
    return f"{random.getrandbits(64):016x}"


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The trace id in the W3C `traceparent` among these headers, names in lower case; empty if there is none, or it is
    no such thing (https://www.w3.org/TR/trace-context/)."""
    for name, value in headers:
        if name == b"traceparent":
            parts = value.decode("latin-1").split("-")
            trace = parts[1] if len(parts) >= 4 and len(parts[0]) == 2 else ""
            valid = len(trace) == 32 and trace != "0" * 32 and set(trace) <= set("0123456789abcdef")
            return trace if valid else ""
    return ""


class RequestLog:
    """Writes the lines. `model_version`: of the model that answers."""

    def __init__(self, config: LogConfig, pseudonyms: Pseudonyms, model_version: str) -> None:
        self._config, self._pseudonyms, self._model_version = config, pseudonyms, model_version
        self._well, self._others = _Bound(config.most_per_s), _Bound(config.most_per_s)

    def ended(self, request: RequestRecord, status: int, seconds: float, error: BaseException | None = None) -> None:
        """The request was answered with `status`; `error`: why not as wished. If it is traced, so are its stages."""
        if request.span and (batch := request.batch):
            facts: dict[str, str | int] = {"rayfunnel.batch.id": batch.batch_id, "rayfunnel.batch.size": batch.size}
            tracing.stages(request.span, batch.began, batch.timings_ms, facts)
        config = self._config
        well = status < 400 and not request.degraded and seconds * 1e3 <= config.slow_ms
        if well and (config.success_share < 1 and random.random() >= config.success_share):  # noqa: S311
            return
        if not log.isEnabledFor(level := _level(status, well)):
            return
        bound = self._well if well else self._others
        if status != 500 and not bound.admits():
            bound.left_out += 1
            return
        fields: dict[str, Any] = {
            **request.fields(),
            "event.dataset": "rayfunnel.requests",
            "event.action": request.operation,
            "event.outcome": "success" if status < 400 else "failure",
            "event.duration": int(seconds * 1e9),
            "http.response.status_code": status,
            "rayfunnel.model_version": self._model_version,
            "rayfunnel.share": config.success_share if well else 1.0,
        }
        if bound.left_out:
            fields["rayfunnel.left_out"], bound.left_out = bound.left_out, 0
        if request.user_id:
            fields["user.hash"] = self._pseudonyms.text(request.user_id)
        if request.events:
            fields["rayfunnel.events"] = request.events
        if request.degraded:
            fields["rayfunnel.degraded"] = list(request.degraded)
        if error is not None:
            fields["error.type"] = type(error).__name__
        if (batch := request.batch) is not None:
            fields["rayfunnel.batch.id"] = batch.batch_id
            fields["rayfunnel.batch.size"] = batch.size
            for stage, milliseconds in batch.timings_ms.items():
                fields[f"rayfunnel.timings_ms.{stage}"] = round(milliseconds, 3)
        log.log(level, "%s %d in %.1f ms", request.operation, status, seconds * 1e3, extra={FIELDS: fields})


class _Bound:
    """Lines of one kind: at most `most_per_s` in a second, 0: any number."""

    def __init__(self, most_per_s: int) -> None:
        self._most_per_s, self._second, self._admitted = most_per_s, 0, 0
        self.left_out = 0
        """Since the last line."""

    def admits(self) -> bool:
        """Whether this second has room for one more."""
        if self._second != (second := int(time.monotonic())):
            self._second, self._admitted = second, 0
        self._admitted += 1
        return self._most_per_s == 0 or self._admitted <= self._most_per_s


def _level(status: int, well: bool) -> int:
    if status >= 500:
        return logging.ERROR if status == 500 else logging.WARNING
    return logging.INFO if well or status >= 400 else logging.WARNING


def _one_or_all(ids: list[str]) -> str | list[str]:
    return ids[0] if len(ids) == 1 else ids
