"""A replica's side of metrics: sends snapshots to the hub off the request path, and fetches the totals for a scrape.

A hub that hangs or is dead costs a replica only an abandoned call: a snapshot is cumulative, so the next one is enough.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from deployments.telemetry.durable_aggregator import MetricsConfig
from monitoring.metrics.aggregation import totals_without_hub
from monitoring.metrics.replica_metrics import ReplicaMetrics
from monitoring.metrics.resources import Resources
from monitoring.metrics.snapshots import ApplicationTotals, ReplicaSnapshot, text

log = logging.getLogger("rayfunnel.reporter")

HubCall = Callable[..., Awaitable[Any]]
"""(method of the hub, arguments) → its result; may raise any exception."""

LAG_WINDOW_S = 15.0
"""The event loop's lag is the longest of this time: about the time between two scrapes."""
_LAG_EVERY_S = 0.1
"""Pause between two measurements of the event loop's lag."""
_TRIES = 4
"""During a rollout a call may reach the hub that no longer owns the state."""
_SEND_S = 2.0


class MetricsReporter:
    """Belongs to one event loop. `call`: calls the hub, None: there is none; `waiting`: requests waiting here."""

    def __init__(
        self,
        metrics: ReplicaMetrics,
        call: HubCall | None,
        config: MetricsConfig,
        waiting: Callable[[], int],
        gpu: bool = False,
    ) -> None:
        self._metrics, self._call, self._config, self._waiting = metrics, call, config, waiting
        self._resources = Resources(gpu)
        self._lags_s: deque[float] = deque([0.0], maxlen=round(LAG_WINDOW_S / _LAG_EVERY_S))
        self._measuring = asyncio.Lock()
        self._last_error = ""
        self._last_totals: tuple[ApplicationTotals, ReplicaSnapshot] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts sending; call it in the running event loop."""
        if self._call is not None:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._measure_lag()), loop.create_task(self._run())]

    async def close(self) -> None:
        """Sends a last snapshot, if the hub answers."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await self._send()

    async def scrape(self) -> bytes:
        """Prometheus' text of the application's totals; if the hub does not answer, with this replica's own counts."""
        own = await self._snapshot()
        if self._call is None:
            return await asyncio.to_thread(text, totals_without_hub(own, None))
        try:
            totals = await asyncio.wait_for(self._fetch(own), self._config.answer_s)
        except Exception as error:
            log.warning("a scrape without the hub: %s: %s", type(error).__name__, str(error)[:200])
            totals = totals_without_hub(own, self._last_totals)
        return await asyncio.to_thread(text, totals)

    async def _fetch(self, own: ReplicaSnapshot) -> ApplicationTotals:
        await self._ask("report", own)  # first, so that the totals include this replica's latest counts
        totals: ApplicationTotals = await self._ask("totals")
        if totals.counters:
            self._last_totals = totals, own
            return totals
        return ApplicationTotals(totals_without_hub(own, self._last_totals).counters, totals.gauges)

    async def _ask(self, method: str, *args: object) -> Any:
        """The result of the hub that owns the state."""
        assert self._call is not None
        for _ in range(_TRIES):
            answer = await self._call(method, *args)
            if answer:
                return answer
        raise LookupError("the hub is being replaced")

    async def _snapshot(self) -> ReplicaSnapshot:
        async with self._measuring:
            return await asyncio.to_thread(self._measure, self._waiting(), max(self._lags_s))

    def _measure(self, waiting: int, lag_s: float) -> ReplicaSnapshot:
        self._metrics.waiting(waiting)
        self._metrics.resources(self._resources.cpu_s(), self._resources.memory_bytes(), self._resources.gpu(), lag_s)
        return self._metrics.snapshot()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._config.every_s)
            await self._send()

    async def _send(self) -> None:
        try:
            await asyncio.wait_for(self._ask("report", await self._snapshot()), _SEND_S)
            self._last_error = ""
        except Exception as error:
            name = type(error).__name__
            if name != self._last_error:  # logged once per kind of error
                log.warning("the metrics hub did not take a snapshot: %s: %s", name, str(error)[:200])
            self._last_error = name

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._lags_s.append(loop.time() - due)
