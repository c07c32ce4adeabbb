"""What surrounds every operation, however it is called: its concurrency limit, its metrics, its log line."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from deployments.errors import FunnelError, Overloaded
from deployments.pipeline.overload.concurrency_limit import ConcurrencyLimit
from deployments.pipeline.request import arrival
from monitoring.logs.context import RequestLogContext, log_context
from monitoring.logs.request_log import RequestLog
from monitoring.metrics.replica_metrics import ReplicaMetrics

RawBody = bytes | Mapping[str, Any]
"""JSON, or a handle caller's dict."""


class InstrumentedOperations(Protocol):
    """The object whose methods are operations."""

    @property
    def limits(self) -> Mapping[str, ConcurrencyLimit]: ...
    @property
    def replica_metrics(self) -> ReplicaMetrics: ...
    @property
    def request_log(self) -> RequestLog: ...
    def count_refusal(self, operation: str) -> None: ...


OperationsT = TypeVar("OperationsT", bound=InstrumentedOperations)
Operation = Callable[[OperationsT, RawBody], Awaitable[dict[str, Any]]]


def operation(success: int) -> Callable[[Operation[OperationsT]], Operation[OperationsT]]:
    """Makes a method an operation. `success`: its HTTP status if nothing is raised.

    It runs in a slot of its concurrency limit. Its status and its time go to the metrics and the log. Its request stays
    bound to the context, so that later lines about the request carry its ids.
    """

    def decorate(method: Operation[OperationsT]) -> Operation[OperationsT]:
        name = method.__name__

        @functools.wraps(method)
        async def run(self: OperationsT, body: RawBody) -> dict[str, Any]:
            began, status = time.perf_counter() - max(0.0, time.time() - arrival()), 500
            failure: BaseException | None = None
            request = RequestLogContext(name)
            log_context.set(request)
            try:
                with self.limits[name].slot():
                    response = await method(self, body)
                status = success
                return response
            except FunnelError as error:
                status, failure = error.status, error
                if isinstance(error, Overloaded):
                    self.count_refusal(name)
                raise
            except BaseException as error:
                failure = error
                if isinstance(error, asyncio.CancelledError):
                    status = 499  # the caller has gone; nginx uses this status for it
                raise
            finally:
                seconds = time.perf_counter() - began
                if not isinstance(failure, Overloaded):
                    self.replica_metrics.request(name, status, seconds)
                self.request_log.ended(request, status, seconds, failure)

        return run

    return decorate
