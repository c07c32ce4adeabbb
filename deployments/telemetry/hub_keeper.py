"""Keeps the metrics hub of one application: its state in the store, one owner at a time. Knows no Ray.

On a rollout two of them run side by side for some seconds. Whoever started last owns the state, which it takes over
from the store; the other finds out when it saves, and answers no more. What was ever shown is in the store, so that no
total falls when the hub is killed.
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
from monitoring.metrics.snapshots import Snapshot, Totals, series

log = logging.getLogger("rayfunnel.hub")

_PATIENCE_S = 15.0
"""So long the hub waits for the store to hand it the totals so far, before it starts from nothing."""
_RECLAIM_S = 10.0
"""A hub that is still there so long after another took over takes the state back: the other has gone."""
_SAVE_S = 5.0
"""Pause between two saves; what a scrape shows is saved before."""
_ASK_S = 5.0
"""Pause between questions to Serve's controller."""


class MetricsConfig(BaseModel):
    """How replicas tell the hub what they counted, and how long a scrape waits for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every_s: float = Field(1.0, gt=0, le=60, description="Pause between two snapshots of a replica.")
    answer_s: float = Field(1.0, gt=0, description="How long a scrape waits for the hub.")
    fold_after_s: float = Field(30.0, gt=0, description="Silence after which an ended replica's counts are folded.")


@dataclass(frozen=True)
class Fleet:
    """What Serve's controller knows. `wanted`: replicas per deployment; `alive`: the replicas that there are."""

    wanted: Mapping[str, int]
    alive: set[str]


class HubKeeper:
    """`ask`: asks Serve's controller; None: it knows nothing of this application. Belongs to one event loop."""

    def __init__(
        self, application: str, store: Store, config: MetricsConfig, ask: Callable[[], Awaitable[Fleet | None]]
    ) -> None:
        self._name, self._store, self._config, self._ask = f"hub:{application}", store, config, ask
        self._started = time.time()
        self._wanted: Mapping[str, int] = {}
        self._store_up = False
        self._saving = asyncio.Lock()
        self._begin()

    def _begin(self) -> None:
        """Knows nothing, and owns nothing yet."""
        self._hub = MetricsAggregator(3 * self._config.every_s + 1, self._config.fold_after_s)
        self._owner = secrets.token_hex(8)
        self._began = time.monotonic()
        self._restored = False
        self._lost_at: float | None = None

    @property
    def owns(self) -> bool:
        """Whether no other hub has taken over."""
        return self._lost_at is None

    def report(self, snapshot: Snapshot) -> bool:
        """Takes a replica's snapshot; False: another hub has taken over, send it there."""
        if self.owns:
            self._hub.report(snapshot, time.monotonic())
        return self.owns

    async def totals(self) -> Totals | None:
        """What to show, once it is in the store; None: another hub has taken over. No counters: the store has not
        handed over the totals so far.
        """
        kept = None
        with contextlib.suppress(TimeoutError):  # a store that hangs keeps nobody from being shown what is known
            kept = await asyncio.wait_for(self.save(), self._config.answer_s / 2)
        if not self.owns:
            return None
        totals = self._known() if kept is None else kept
        totals.gauges[series(m.HUB_UP)] = 1.0
        totals.gauges[series(m.HUB_STARTED)] = self._started
        totals.gauges[series(m.STORE_UP)] = float(self._store_up)
        if not self._restored and time.monotonic() - self._began < _PATIENCE_S:
            totals.counters.clear()
        return totals

    async def run(self) -> None:
        """Saves, and asks the controller, for ever."""
        asked = saved = -_SAVE_S
        while True:
            await asyncio.sleep(self._config.every_s)
            try:
                if self._lost_at is not None and time.monotonic() - self._lost_at > _RECLAIM_S:
                    self._begin()
                if not self._restored or time.monotonic() - saved > _SAVE_S:
                    saved = time.monotonic()
                    await self.save()
                if time.monotonic() - asked > _ASK_S:
                    asked = time.monotonic()
                    await self.count_replicas()
            except Exception:  # a bug of ours: the next turn is another chance
                log.exception("a turn of the metrics hub failed")

    async def count_replicas(self) -> None:
        """Asks the controller which replicas there are and should be."""
        fleet = await self._ask()
        if fleet is not None:
            self._wanted = fleet.wanted
            self._hub.ended(fleet.alive, time.monotonic())

    def _known(self) -> Totals:
        return self._hub.totals(time.monotonic(), self._wanted)

    async def save(self) -> Totals | None:
        """Keeps the state in the store, having taken over what is there; tried again later if the store is away.
        Returns the totals that were kept, without what replicas reported meanwhile; None: nothing was kept.
        """
        async with self._saving:
            return await self._save() if self.owns else None

    async def _save(self) -> Totals | None:
        kept = None
        try:
            if not self._restored:
                state = await self._store.claim(self._name, self._owner)
                self._restored = True
                self._hub.restore(zlib.decompress(state) if state else b"")
            state, known = zlib.compress(self._hub.state(), 1), self._known()
            if await self._store.keep(self._name, self._owner, state):
                kept = known
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
            self._hub.restore(b"")
        return kept
