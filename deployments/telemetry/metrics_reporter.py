"""A replica's side of the metrics hub: sends snapshots, off the path, and fetches totals for a scrape. Knows no Ray.

A hub that is stuck or dead costs a replica nothing but a call given up: the next snapshot holds everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from deployments.telemetry.hub_keeper import MetricsConfig
from monitoring.metrics.aggregation import alone
from monitoring.metrics.replica_metrics import FunnelMetrics
from monitoring.metrics.resources import Resources
from monitoring.metrics.snapshots import Snapshot, Totals, text

log = logging.getLogger("rayfunnel.reporter")

Call = Callable[..., Awaitable[Any]]
"""(method of the hub, arguments) → what it answers; raises whatever it likes."""

LAG_WINDOW_S = 15.0
"""The event loop's lag is the longest of that time: as long as scrapes usually are apart."""
_LOOK_S = 0.1
"""How often it is looked whether the event loop comes late."""
_TRIES = 4
"""During a rollout a call may meet the hub that has handed over."""
_SEND_S = 2.0


class MetricsReporter:
    """Belongs to one event loop. `call`: reaches the hub, None: there is none; `waiting`: requests that wait here."""

    def __init__(
        self,
        metrics: FunnelMetrics,
        call: Call | None,
        config: MetricsConfig,
        waiting: Callable[[], int],
        gpu: bool = False,
    ) -> None:
        self._metrics, self._call, self._config, self._waiting = metrics, call, config, waiting
        self._resources = Resources(gpu)
        self._late_s: deque[float] = deque([0.0], maxlen=round(LAG_WINDOW_S / _LOOK_S))
        self._measuring = asyncio.Lock()
        self._told = ""
        self._before: tuple[Totals, Snapshot] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to send, from the running event loop."""
        if self._call is not None:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._look()), loop.create_task(self._run())]

    async def close(self) -> None:
        """Sends a last snapshot, if the hub answers."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await self._send()

    async def scrape(self) -> bytes:
        """Prometheus' text: the totals of the application, or what this replica knows if the hub does not answer."""
        own = await self._snapshot()
        if self._call is None:
            return await asyncio.to_thread(text, alone(own, None))
        try:
            totals = await asyncio.wait_for(self._fresh(own), self._config.answer_s)
        except Exception as error:
            log.warning("a scrape without the hub: %s: %s", type(error).__name__, str(error)[:200])
            totals = alone(own, self._before)
        return await asyncio.to_thread(text, totals)

    async def _fresh(self, own: Snapshot) -> Totals:
        await self._ask("report", own)  # so that what this replica answered is in what it shows
        totals: Totals = await self._ask("totals")
        if totals.counters:
            self._before = totals, own
            return totals
        return Totals(alone(own, self._before).counters, totals.gauges)

    async def _ask(self, method: str, *args: object) -> Any:
        """What the hub answers that owns the state."""
        assert self._call is not None
        for _ in range(_TRIES):
            answer = await self._call(method, *args)
            if answer:
                return answer
        raise LookupError("the hub is being replaced")

    async def _snapshot(self) -> Snapshot:
        async with self._measuring:
            return await asyncio.to_thread(self._measure, self._waiting(), max(self._late_s))

    def _measure(self, waiting: int, lag_s: float) -> Snapshot:
        self._metrics.waiting(waiting)
        self._metrics.used(self._resources.cpu_s(), self._resources.memory_bytes(), self._resources.gpu(), lag_s)
        return self._metrics.snapshot()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._config.every_s)
            await self._send()

    async def _send(self) -> None:
        try:
            await asyncio.wait_for(self._ask("report", await self._snapshot()), _SEND_S)
            self._told = ""
        except Exception as error:
            told = type(error).__name__
            if told != self._told:  # said once
                log.warning("the metrics hub did not take a snapshot: %s: %s", told, str(error)[:200])
            self._told = told

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            self._late_s.append(loop.time() - due)
