"""The metrics hub without a cluster: totals are exact and never fall, whatever comes late, twice, or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client.parser import text_string_to_metric_families

from deployments.store.base import StoreConfig
from deployments.store.memory import MemoryStore
from deployments.telemetry.hub_keeper import Fleet, HubKeeper, MetricsConfig
from deployments.telemetry.metrics_reporter import MetricsReporter
from monitoring.metrics import declarations as m
from monitoring.metrics.aggregation import MetricsAggregator
from monitoring.metrics.replica_metrics import FunnelMetrics
from monitoring.metrics.snapshots import Snapshot, Totals, Values, series, text

ANSWERS = series(m.REQUESTS, operation="recommend", status="200")
COUNT = ("rayfunnel_request_seconds_count", (("operation", "recommend"),))


class Churn(RuleBasedStateMachine):
    """Three names of replicas behind which processes come and go, and a hub that is replaced now and then.

    What is promised only holds as far as a process tells the hub of its last requests before it ends.
    """

    names = st.integers(0, 2)

    def __init__(self) -> None:
        super().__init__()
        self.now, self.answered, self.shown = 0.0, 0, 0.0
        self.running: dict[int, FunnelMetrics] = {}
        self.sent: list[Snapshot] = []
        self.hub = MetricsAggregator(fresh_s=4, fold_after_s=10)
        self.hub.restore(b"")
        self.saved = self.hub.state()

    def deliver(self, snapshot: Snapshot) -> None:
        self.sent.append(snapshot)
        self.hub.report(snapshot, self.now)

    @rule(name=names, requests=st.integers(1, 9))
    def requests_are_answered(self, name: int, requests: int) -> None:
        metrics = self.running.setdefault(name, FunnelMetrics(f"replica {name}"))
        for _ in range(requests):
            metrics.request("recommend", 200, 0.01)
        self.answered += requests

    @rule(gets_lost=st.booleans())
    def every_process_sends(self, gets_lost: bool) -> None:
        for metrics in self.running.values():
            if gets_lost:
                self.sent.append(metrics.snapshot())  # or comes later
            else:
                self.deliver(metrics.snapshot())

    @precondition(lambda self: self.sent)
    @rule(choice=st.integers(0, 1000))
    def an_old_one_arrives_again(self, choice: int) -> None:
        self.hub.report(self.sent[choice % len(self.sent)], self.now)

    @rule(name=names)
    def a_process_ends(self, name: int) -> None:
        if name in self.running:
            self.deliver(self.running.pop(name).snapshot())
            self.saved = self.hub.state()

    @rule(seconds=st.sampled_from([1, 11]))
    def the_controller_is_asked(self, seconds: int) -> None:
        self.now += seconds
        self.every_process_sends(gets_lost=False)
        self.hub.ended({f"replica {name}" for name in self.running}, self.now)

    @rule()
    def the_hub_is_killed(self) -> None:
        self.hub = MetricsAggregator(fresh_s=4, fold_after_s=10)
        self.hub.restore(self.saved)

    @precondition(lambda self: self.sent)
    @rule(choice=st.integers(0, 1000), seconds=st.sampled_from([1, 11]))
    def the_hub_is_killed_and_hears_replicas_before_the_store(self, choice: int, seconds: int) -> None:
        self.hub = MetricsAggregator(fresh_s=4, fold_after_s=10)
        self.an_old_one_arrives_again(choice)
        self.the_controller_is_asked(seconds)
        self.the_controller_is_asked(seconds)
        self.hub.restore(self.saved)

    @invariant()
    def totals_never_fall(self) -> None:
        self.saved = self.hub.state()  # as before every scrape
        counters = self.hub.totals(self.now, {}).counters
        shown = counters.get(ANSWERS, 0.0)
        assert self.shown <= shown <= self.answered
        assert counters.get(COUNT, 0.0) == shown, "a histogram counts as a counter does"
        self.shown = shown

    @invariant()
    def no_more_series_than_names(self) -> None:
        assert len(self.hub._heard) <= 3

    def teardown(self) -> None:
        for metrics in self.running.values():
            self.deliver(metrics.snapshot())
        assert self.hub.totals(self.now, {}).counters.get(ANSWERS, 0.0) == self.answered


Churn.TestCase.settings = settings(max_examples=300, stateful_step_count=20, deadline=None)
TestChurn = Churn.TestCase


def counted(name: str, requests: int, deployment: str = "Ingress") -> FunnelMetrics:
    metrics = FunnelMetrics(name, deployment)
    for _ in range(requests):
        metrics.request("recommend", 200, 0.01)
    return metrics


def test_an_ended_replica_is_folded_once_and_a_snapshot_that_comes_after_that_counts_no_more() -> None:
    hub, metrics = MetricsAggregator(fresh_s=4, fold_after_s=10), counted("a", 3)
    hub.restore(b"")
    hub.report(metrics.snapshot(), 0.0)
    hub.ended(set(), 9.0)
    assert hub.totals(9.0, {}).counters[series(m.FOLDED)] == 0, "silent, but not for long"
    hub.ended({"a"}, 11.0)
    assert hub.totals(11.0, {}).counters[series(m.FOLDED)] == 0, "the controller says that it lives"
    hub.ended(set(), 11.0)
    hub.report(metrics.snapshot(), 12.0)
    counters = hub.totals(12.0, {}).counters
    assert (counters[series(m.FOLDED)], counters[ANSWERS]) == (1, 3)


def test_gauges_are_those_of_fresh_replicas_joined_as_declared() -> None:
    hub, replicas = MetricsAggregator(fresh_s=4, fold_after_s=10), [counted(name, 0) for name in "abc"]
    for number, metrics in enumerate(replicas):
        metrics.used(cpu_s=2.0, memory_bytes=100.0 * (number + 1), gpu=(10.0, 0.25 * number), lag_s=0.1 * number)
        metrics.waiting(number)
        hub.report(metrics.snapshot(), now=3.0 * number)
    gauges = hub.totals(7.0, {"Ingress": 4, "Scorer": 2}).gauges
    own = {"deployment": "Ingress"}
    assert gauges[series(m.MEMORY, **own)] == 500, "a has been silent for 7 s"
    assert gauges[series(m.MEMORY_MAX, **own)] == 300
    assert gauges[series(m.GPU_MEMORY, **own)] == 20
    assert gauges[series(m.GPU_USED, **own)] == 0.5
    assert gauges[series(m.LAG, **own)] == pytest.approx(0.2)
    assert gauges[series(m.WAITING)] == 1 + 2
    assert gauges[series(m.READY, **own)] == 2
    assert gauges[series(m.WANTED, **own)] == 4
    assert gauges[series(m.AGE, **own)] == 4
    assert gauges[series(m.READY, deployment="Scorer")] == 0
    assert hub.totals(7.0, {}).counters[series(m.CPU, **own)] == 6


def test_the_verdict_shown_is_of_the_replica_to_which_the_actor_spoke_last(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = MetricsAggregator(fresh_s=4, fold_after_s=10)
    for name, verdict in (("b", "DRIFT"), ("a", "OK")):
        metrics = counted(name, 0)
        metrics.drift({"score.mean": verdict}, sent=1)
        hub.report(metrics.snapshot(), 0.0)
    hub.report(counted("c", 0).snapshot(), 0.0)
    assert hub.totals(0.0, {}).gauges[series(m.DRIFT_VERDICT, signal="score.mean")] == m.VERDICTS["OK"]


def test_the_text_is_what_prometheus_reads_with_help_and_buckets_in_order() -> None:
    metrics = counted("a", 4)
    metrics.used(1.5, 1e8, None, 0.0)
    snapshot = metrics.snapshot()
    shown = text(Totals({**snapshot.counters, ("of_an_older_version_total", ()): 1.0}, snapshot.gauges)).decode()
    families = {family.name: family for family in text_string_to_metric_families(shown)}
    assert {"rayfunnel_requests", "rayfunnel_request_seconds", "rayfunnel_memory_bytes"} <= set(families)
    assert not [name for name in families if name.endswith("_created") or name.startswith("of_an")]
    bounds = [s.labels["le"] for s in families["rayfunnel_request_seconds"].samples if s.name.endswith("_bucket")]
    assert bounds == [*map(str, m.SECONDS), "+Inf"]
    assert families["rayfunnel_requests"].type == "counter"
    assert all(families[name].documentation for name in families)


def test_a_metric_that_is_not_declared_or_has_other_labels_fails_at_once() -> None:
    metrics = FunnelMetrics("a")
    with pytest.raises(ValueError, match="label"):
        metrics._of(m.REQUESTS, operation="recommend", state="200")
    with pytest.raises(ValueError, match="rayfunnel_memory_bytes has the labels"):
        series(m.MEMORY, deploymint="Scorer")
    with pytest.raises(KeyError):
        metrics._of(m.Metric("rayfunnel_mine_total", "counter", "Mine.", ()))
    with pytest.raises(AssertionError, match="declared twice"):
        m._counter("rayfunnel_requests_total", "Again.")


class Site:
    """A keeper, what its controller says, and whether it is `well`, `stuck`, `dead` or `replaced`."""

    def __init__(self, store: MemoryStore, **numbers: float) -> None:
        self.mood = "well"
        self.fleet: Fleet | None = Fleet({"Ingress": 1}, set())
        self.keeper = HubKeeper("app", store, MetricsConfig.model_validate(numbers), self.ask)

    async def ask(self) -> Fleet | None:
        return self.fleet

    async def call(self, method: str, *args: Any) -> Any:
        if self.mood == "stuck":
            await asyncio.sleep(60)
        if self.mood == "dead":
            raise ConnectionError("killed")
        if self.mood == "replaced":
            return None
        found = getattr(self.keeper, method)(*args)
        return await found if asyncio.iscoroutine(found) else found

    async def counters(self) -> Values:
        totals = await self.keeper.totals()
        assert totals is not None
        return totals.counters


async def test_on_a_rollout_the_new_hub_has_all_counts_and_the_old_one_sends_its_callers_away() -> None:
    store, gone, lives = MemoryStore(StoreConfig()), counted("gone", 3), counted("lives", 5)
    old = Site(store, fold_after_s=1e-6)
    assert old.keeper.report(gone.snapshot())
    await old.keeper.save()
    await old.keeper.count_replicas()
    assert old.keeper.report(lives.snapshot())
    assert (await old.counters())[ANSWERS] == 8

    new = Site(store)
    assert (await new.counters())[ANSWERS] == 8
    assert await old.keeper.totals() is None
    assert not old.keeper.report(lives.snapshot())
    lives.request("recommend", 200, 0.01)
    assert new.keeper.report(lives.snapshot())
    assert (await new.counters())[ANSWERS] == 9
    assert (await new.counters())[series(m.FOLDED)] == 1


async def test_a_killed_hub_comes_back_with_everything_it_ever_showed() -> None:
    store = MemoryStore(StoreConfig())
    first = Site(store)
    first.keeper.report(counted("dies too", 4).snapshot())
    assert (await first.counters())[ANSWERS] == 4  # killed here: it is told of nothing
    second = Site(store)
    assert (await second.counters())[ANSWERS] == 4


async def test_what_is_reported_while_the_state_is_being_kept_is_not_shown_before_it_is_kept_too() -> None:
    store = MemoryStore(StoreConfig())
    first = Site(store)
    first.keeper.report(counted("early", 4).snapshot())
    keep = store.keep

    async def slow_keep(name: str, owner: str, value: bytes) -> bool:
        first.keeper.report(counted("late", 3).snapshot())
        return await keep(name, owner, value)

    store.keep = slow_keep  # type: ignore[method-assign]
    assert (await first.counters())[ANSWERS] == 4  # killed here
    second = Site(store)
    store.keep = keep  # type: ignore[method-assign]
    assert (await second.counters())[ANSWERS] == 4


async def test_without_the_store_a_new_hub_shows_no_totals_that_would_fall_and_adds_up_once_it_is_back() -> None:
    store, lives = MemoryStore(StoreConfig()), counted("lives", 2)
    first = Site(store)
    first.keeper.report(lives.snapshot())
    first.keeper.report(counted("gone", 4).snapshot())
    await first.counters()
    store.failing = True
    second = Site(store)
    second.keeper.report(lives.snapshot())
    totals = await second.keeper.totals()
    assert totals is not None
    assert totals.counters == {}
    assert totals.gauges[series(m.STORE_UP)] == 0
    assert totals.gauges[series(m.READY, deployment="Ingress")] == 1
    store.failing = False
    assert (await second.counters())[ANSWERS] == 6


async def test_a_stuck_or_dead_hub_leaves_a_scrape_with_the_last_totals_and_the_replicas_own_counts() -> None:
    store, own = MemoryStore(StoreConfig()), counted("own", 5)
    hub = Site(store)
    hub.keeper.report(counted("other", 7).snapshot())

    def shown(scraped: bytes) -> tuple[float, float]:
        samples = {s.name: s.value for f in text_string_to_metric_families(scraped.decode()) for s in f.samples}
        return samples["rayfunnel_requests_total"], samples["rayfunnel_hub_up"]

    reporter = MetricsReporter(own, hub.call, MetricsConfig(answer_s=0.2), lambda: 0)
    never = MetricsReporter(counted("never", 3), hub.call, MetricsConfig(answer_s=0.2), lambda: 0)
    assert shown(await reporter.scrape()) == (12, 1)
    for number, hub.mood in enumerate(("stuck", "dead", "replaced"), start=1):
        own.request("recommend", 200, 0.01)
        assert shown(await reporter.scrape()) == (12 + number, 0)
        assert shown(await never.scrape()) == (3, 0)
    hub.mood = "well"
    assert shown(await reporter.scrape()) == (15, 1)


async def test_a_reporter_sends_by_itself_and_a_last_time_when_it_is_closed() -> None:
    hub, own = Site(MemoryStore(StoreConfig())), counted("own", 1)
    reporter = MetricsReporter(own, hub.call, MetricsConfig(every_s=0.05), lambda: 0)
    reporter.start()
    while (await hub.counters()).get(ANSWERS) != 1:  # noqa: ASYNC110 - the pytest time-out ends it
        await asyncio.sleep(0.02)
    own.request("recommend", 200, 0.01)
    await reporter.close()
    counters = await hub.counters()
    assert counters[ANSWERS] == 2
    assert counters[series(m.CPU, deployment="Ingress")] > 0
    totals = await hub.keeper.totals()
    assert totals is not None
    assert totals.gauges[series(m.MEMORY, deployment="Ingress")] > 1e6
