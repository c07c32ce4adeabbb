"""Which requests the fast path takes: the targets that Serve has routed to this application, and their operations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from starlette.responses import Response

from deployments.api.access import AccessChain, Head
from deployments.errors import Overloaded
from deployments.pipeline.overload.concurrency_limit import ConcurrencyLimit
from deployments.pipeline.overload.refusal_pacing import RefusalPacer

OPERATIONS = {b"recommend": "recommend", b"rank": "rank", b"similar": "similar", b"events": "record_events"}
"""Last part of a target → the operation."""

OTHER = "other"
"""The operation of every other request, in metrics and log lines."""


def operation_of(path: str) -> str:
    """The operation at a path below the route prefix."""
    prefix, _, name = path.rpartition("/v1/")
    return OTHER if prefix else OPERATIONS.get(name.encode(), OTHER)


Handler = Callable[[bytes, Head], Awaitable[Response]]
"""Answers a request, from its body and its head."""
Routes = dict[bytes, Handler]
"""Target of a request, as it came → its handler."""


class BoundedOperations(Protocol):
    """What the fast path serves; `deployments.api.operations.Recommender`."""

    @property
    def limits(self) -> Mapping[str, ConcurrencyLimit]: ...
    def refuse_unread(self, operation: str, request_id: str) -> Overloaded: ...
    def refused_before_operation(self, operation: str, request_id: str, status: int) -> None: ...


class FastPath:
    """The fast path of one ingress replica and its event loop."""

    def __init__(self, operations: BoundedOperations, access: AccessChain, max_body_bytes: int) -> None:
        self.operations, self.access, self.max_body_bytes = operations, access, max_body_bytes
        self.routes: Routes = {}
        self.pacer = RefusalPacer()
