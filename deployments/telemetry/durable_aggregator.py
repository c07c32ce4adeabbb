"""The totals of one application, kept in the store: a MetricsAggregator whose state survives. No Ray.

During a rollout two hubs run side by side for some seconds. The one that started last takes the state over from the
store and owns it; the other learns of this when it saves, and then refuses calls. A total is shown only after it has
been saved, so no counter falls when a hub is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import StoreUnavailable
from deployments.store.base import Store
from monitoring.metrics import declarations as m
from monitoring.metrics.aggregation import MetricsAggregator
from monitoring.metrics.snapshots import ApplicationTotals, ReplicaSnapshot, series

log = logging.getLogger("rayfunnel.hub")

_RESTORE_S = 15.0
"""How long a new hub waits for the earlier state from the store before it shows counters without it."""
_RECLAIM_S = 10.0
"""A hub that still runs so long after another took over reclaims the state: the other one has ended."""
_SAVE_EVERY_S = 5.0
"""Pause between two saves of the loop; every scrape saves as well."""
_STATUS_EVERY_S = 5.0
"""Pause between two requests to Serve's controller."""


class MetricsConfig(BaseModel):
    """How often replicas send snapshots, and how long a scrape waits for the hub."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    every_s: float = Field(1.0, gt=0, le=60)
    """Pause between two snapshots of a replica."""
    answer_s: float = Field(1.0, gt=0)
    """How long a scrape waits for the hub."""
    fold_after_s: float = Field(30.0, gt=0)
    """Silence after which an ended replica's counts are added to those of all ended replicas."""


@dataclass(frozen=True)
class ControllerStatus:
    """From Serve's controller. `wanted`: target number of replicas per deployment; `alive`: ids of running replicas."""

    wanted: Mapping[str, int]
    alive: set[str]


class DurableAggregator:
    """`controller_status`: asks Serve's controller; None: no such application there. Belongs to one event loop."""

    def __init__(
        self,
        application: str,
        store: Store,
        config: MetricsConfig,
        controller_status: Callable[[], Awaitable[ControllerStatus | None]],
    ) -> None:
        self._name, self._store, self._config = f"hub:{application}", store, config
        self._controller_status = controller_status
        self._started = time.time()
        self._wanted: Mapping[str, int] = {}
        self._store_up = False
        self._saving = asyncio.Lock()
        self._reset()

    def _reset(self) -> None:
        """Starts with an empty aggregator that has not claimed the state yet."""
        self._aggregator = MetricsAggregator(3 * self._config.every_s + 1, self._config.fold_after_s)
        self._owner = secrets.token_hex(8)
        self._began = time.monotonic()
        self._restored = False
        self._lost_at: float | None = None

    @property
    def is_owner(self) -> bool:
        """False once another hub has taken over."""
        return self._lost_at is None

    def report(self, snapshot: ReplicaSnapshot) -> bool:
        """Takes a replica's snapshot; False: another hub has taken over, send it there."""
        if self.is_owner:
            self._aggregator.report(snapshot, time.monotonic())
        return self.is_owner

    async def totals(self) -> ApplicationTotals | None:
        """The totals, saved before; None: another hub has taken over. Without counters as long as the earlier state is
        not read from the store.
        """
        saved = None
        with contextlib.suppress(TimeoutError):  # a store that hangs must not block scrapes
            saved = await asyncio.wait_for(self.save(), self._config.answer_s / 2)
        if not self.is_owner:
            return None
        totals = self._totals() if saved is None else saved
        totals.gauges[series(m.HUB_UP)] = 1.0
        totals.gauges[series(m.HUB_STARTED)] = self._started
        totals.gauges[series(m.STORE_UP)] = float(self._store_up)
        if not self._restored and time.monotonic() - self._began < _RESTORE_S:
            totals.counters.clear()
        return totals

    async def run(self) -> None:
        """Saves and asks the controller, until cancelled."""
        asked = saved = -_SAVE_EVERY_S
        while True:
            await asyncio.sleep(self._config.every_s)
            try:
                if self._lost_at is not None and time.monotonic() - self._lost_at > _RECLAIM_S:
                    self._reset()
                if not self._restored or time.monotonic() - saved > _SAVE_EVERY_S:
                    saved = time.monotonic()
                    await self.save()
                if time.monotonic() - asked > _STATUS_EVERY_S:
                    asked = time.monotonic()
                    await self.count_replicas()
            except Exception:  # a bug must not end the loop: the next turn may work
                log.exception("a turn of the metrics hub failed")

    async def count_replicas(self) -> None:
        """Asks the controller how many replicas are wanted and which are alive; folds those that have ended."""
        status = await self._controller_status()
        if status is not None:
            self._wanted = status.wanted
            self._aggregator.fold_ended(status.alive, time.monotonic())

    def _totals(self) -> ApplicationTotals:
        return self._aggregator.totals(time.monotonic(), self._wanted)

    async def save(self) -> ApplicationTotals | None:
        """Saves the state in the store; the first time, restores the earlier state before. Returns the totals that were
        saved, without later reports; None: nothing was saved, and the next call tries again.
        """
        async with self._saving:
            return await self._save() if self.is_owner else None

    async def _save(self) -> ApplicationTotals | None:
        saved = None
        try:
            if not self._restored:
                state = await self._store.claim(self._name, self._owner)
                self._restored = True
                self._aggregator.restore(zlib.decompress(state) if state else b"")
            state, totals = zlib.compress(self._aggregator.state(), 1), self._totals()
            if await self._store.save_owned(self._name, self._owner, state):
                saved = totals
            else:
                self._lost_at = time.monotonic()
                log.info("another hub has taken over the metrics of the application")
            self._store_up = True
        except StoreUnavailable as error:
            if self._store_up:
                log.warning("the totals are in memory only: %s", error)
            self._store_up = False
        except (ValueError, zlib.error) as error:
            log.error("the totals so far can't be read and start anew: %s", error)
            self._aggregator.restore(b"")
        return saved
