"""The hub over a store, and the replicas' side of it: no counter falls, whatever happens to hub, store or calls."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from deployments.store.base import StoreConfig
from deployments.store.memory import MemoryStore
from deployments.telemetry.durable_aggregator import ControllerStatus, DurableAggregator, MetricsConfig
from deployments.telemetry.metrics_reporter import MetricsReporter
from monitoring.metrics import declarations as m
from monitoring.metrics.snapshots import SeriesValues, series
from tests.support.metrics import ANSWERS, counted


class Hub:
    """An aggregator, the status of its controller, and its own `state`: `well`, `stuck`, `dead` or `replaced`."""

    def __init__(self, store: MemoryStore, **numbers: float) -> None:
        self.state = "well"
        self.status: ControllerStatus | None = ControllerStatus({"Ingress": 1}, set())
        self.aggregator = DurableAggregator("app", store, MetricsConfig.model_validate(numbers), self.controller_status)

    async def controller_status(self) -> ControllerStatus | None:
        return self.status

    async def call(self, method: str, *args: Any) -> Any:
        if self.state == "stuck":
            await asyncio.sleep(60)
        if self.state == "dead":
            raise ConnectionError("killed")
        if self.state == "replaced":
            return None
        found = getattr(self.aggregator, method)(*args)
        return await found if asyncio.iscoroutine(found) else found

    async def counters(self) -> SeriesValues:
        totals = await self.aggregator.totals()
        assert totals is not None
        return totals.counters


async def test_on_a_rollout_the_new_hub_has_all_counts_and_the_old_one_refuses_calls() -> None:
    store, gone, lives = MemoryStore(StoreConfig()), counted("gone", 3), counted("lives", 5)
    old = Hub(store, fold_after_s=1e-6)
    assert old.aggregator.report(gone.snapshot())
    await old.aggregator.save()
    await old.aggregator.count_replicas()
    assert old.aggregator.report(lives.snapshot())
    assert (await old.counters())[ANSWERS] == 8

    new = Hub(store)
    assert (await new.counters())[ANSWERS] == 8
    assert await old.aggregator.totals() is None
    assert not old.aggregator.report(lives.snapshot())
    lives.request("recommend", 200, 0.01)
    assert new.aggregator.report(lives.snapshot())
    assert (await new.counters())[ANSWERS] == 9
    assert (await new.counters())[series(m.FOLDED)] == 1


async def test_the_successor_of_a_killed_hub_has_every_total_that_was_shown() -> None:
    store = MemoryStore(StoreConfig())
    first = Hub(store)
    first.aggregator.report(counted("dies too", 4).snapshot())
    assert (await first.counters())[ANSWERS] == 4  # killed here, without a last save
    second = Hub(store)
    assert (await second.counters())[ANSWERS] == 4


async def test_what_is_reported_during_a_save_is_not_shown_before_it_is_saved_too() -> None:
    store = MemoryStore(StoreConfig())
    first = Hub(store)
    first.aggregator.report(counted("early", 4).snapshot())
    save = store.save_owned

    async def slow_save(name: str, owner: str, value: bytes) -> bool:
        first.aggregator.report(counted("late", 3).snapshot())
        return await save(name, owner, value)

    store.save_owned = slow_save  # type: ignore[method-assign]
    assert (await first.counters())[ANSWERS] == 4  # killed here
    second = Hub(store)
    store.save_owned = save  # type: ignore[method-assign]
    assert (await second.counters())[ANSWERS] == 4


async def test_without_the_store_a_new_hub_shows_no_counters_until_it_has_read_the_state() -> None:
    store, lives = MemoryStore(StoreConfig()), counted("lives", 2)
    first = Hub(store)
    first.aggregator.report(lives.snapshot())
    first.aggregator.report(counted("gone", 4).snapshot())
    await first.counters()
    store.failing = True
    second = Hub(store)
    second.aggregator.report(lives.snapshot())
    totals = await second.aggregator.totals()
    assert totals is not None
    assert totals.counters == {}
    assert totals.gauges[series(m.STORE_UP)] == 0
    assert totals.gauges[series(m.READY, deployment="Ingress")] == 1
    store.failing = False
    assert (await second.counters())[ANSWERS] == 6


async def test_without_the_hub_a_scrape_shows_the_last_totals_and_the_replicas_own_counts() -> None:
    store, own = MemoryStore(StoreConfig()), counted("own", 5)
    hub = Hub(store)
    hub.aggregator.report(counted("other", 7).snapshot())

    def shown(scraped: bytes) -> tuple[float, float]:
        samples = {s.name: s.value for f in text_string_to_metric_families(scraped.decode()) for s in f.samples}
        return samples["rayfunnel_requests_total"], samples["rayfunnel_hub_up"]

    reporter = MetricsReporter(own, hub.call, MetricsConfig(answer_s=0.2), lambda: 0)
    never = MetricsReporter(counted("never", 3), hub.call, MetricsConfig(answer_s=0.2), lambda: 0)
    assert shown(await reporter.scrape()) == (12, 1)
    for number, hub.state in enumerate(("stuck", "dead", "replaced"), start=1):
        own.request("recommend", 200, 0.01)
        assert shown(await reporter.scrape()) == (12 + number, 0)
        assert shown(await never.scrape()) == (3, 0)
    hub.state = "well"
    assert shown(await reporter.scrape()) == (15, 1)


async def test_a_reporter_sends_regularly_and_once_more_when_it_is_closed() -> None:
    hub, own = Hub(MemoryStore(StoreConfig())), counted("own", 1)
    reporter = MetricsReporter(own, hub.call, MetricsConfig(every_s=0.05), lambda: 0)
    reporter.start()
    while (await hub.counters()).get(ANSWERS) != 1:  # noqa: ASYNC110 - the pytest time-out ends it
        await asyncio.sleep(0.02)
    own.request("recommend", 200, 0.01)
    await reporter.close()
    counters = await hub.counters()
    assert counters[ANSWERS] == 2
    assert counters[series(m.CPU, deployment="Ingress")] > 0
    totals = await hub.aggregator.totals()
    assert totals is not None
    assert totals.gauges[series(m.MEMORY, deployment="Ingress")] > 1e6
