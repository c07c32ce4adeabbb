"""One log line per request, sampled and limited in rate.

User ids are written as keyed hashes; item ids, filters, contexts and bodies are never written.
"""

from __future__ import annotations

import logging
import random
import time
from typing import Any

from monitoring.logs import tracing
from monitoring.logs.context import RequestLogContext
from monitoring.logs.ecs import FIELDS
from monitoring.logs.pseudonyms import Pseudonyms
from monitoring.logs.setup import LogConfig

log = logging.getLogger("rayfunnel.requests")


class RequestLog:
    """Writes the lines. `model_version`: of the model that answers."""

    def __init__(self, config: LogConfig, pseudonyms: Pseudonyms, model_version: str) -> None:
        self._config, self._pseudonyms, self._model_version = config, pseudonyms, model_version
        self._normal_limit, self._other_limit = _RateLimit(config.most_per_s), _RateLimit(config.most_per_s)

    def ended(
        self, request: RequestLogContext, status: int, seconds: float, error: BaseException | None = None
    ) -> None:
        """The request was answered with `status` after `seconds`; `error`: why it failed or was degraded. Also ends the
        spans of its stages if the request is traced.
        """
        if request.span and (batch := request.batch):
            facts: dict[str, str | int] = {
                "http.request.id": request.request_id,
                "rayfunnel.batch.id": batch.batch_id,
                "rayfunnel.batch.size": batch.size,
            }
            tracing.stages(request.span, batch.began, batch.timings_ms, facts)
        config = self._config
        normal = status < 400 and not request.degraded and seconds * 1e3 <= config.slow_ms
        if normal and (config.success_share < 1 and random.random() >= config.success_share):  # noqa: S311
            return
        if not log.isEnabledFor(level := _level(status, normal)):
            return
        limit = self._normal_limit if normal else self._other_limit
        if status != 500 and not limit.admits():
            limit.left_out += 1
            return
        fields: dict[str, Any] = {
            **request.fields(),
            "event.dataset": "rayfunnel.requests",
            "event.action": request.operation,
            "event.outcome": "success" if status < 400 else "failure",
            "event.duration": int(seconds * 1e9),
            "http.response.status_code": status,
            "rayfunnel.model_version": self._model_version,
            "rayfunnel.share": config.success_share if normal else 1.0,
        }
        if limit.left_out:
            fields["rayfunnel.left_out"], limit.left_out = limit.left_out, 0
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


class _RateLimit:
    """At most `most_per_s` lines in each second of the clock; 0: no limit."""

    def __init__(self, most_per_s: int) -> None:
        self._most_per_s, self._second, self._admitted = most_per_s, 0, 0
        self.left_out = 0
        """Lines left out since the last one that was written."""

    def admits(self) -> bool:
        """Whether this second has room for one more line."""
        if self._second != (second := int(time.monotonic())):
            self._second, self._admitted = second, 0
        self._admitted += 1
        return self._most_per_s == 0 or self._admitted <= self._most_per_s


def _level(status: int, normal: bool) -> int:
    if status >= 500:
        return logging.ERROR if status == 500 else logging.WARNING
    return logging.INFO if normal or status >= 400 else logging.WARNING
