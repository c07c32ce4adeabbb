"""Aggregation without store or cluster: totals are exact and never fall, if snapshots are late, repeated or lost."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics import declarations as m
from monitoring.metrics.aggregation import MetricsAggregator
from monitoring.metrics.replica_metrics import ReplicaMetrics
from monitoring.metrics.snapshots import ApplicationTotals, ReplicaSnapshot, Series, add, series, text
from tests.support.metrics import ANSWERS, counted

COUNT = ("rayfunnel_request_seconds_count", (("operation", "recommend"),))


class Churn(RuleBasedStateMachine):
    """Three replica ids whose processes start and end, and a hub that is replaced from time to time.

    Totals are exact only if a process reports its last requests before it ends, as it does here.
    """

    names = st.integers(0, 2)

    def __init__(self) -> None:
        super().__init__()
        self.now, self.answered, self.shown = 0.0, 0, 0.0
        self.running: dict[int, ReplicaMetrics] = {}
        self.sent: list[ReplicaSnapshot] = []
        self.hub = MetricsAggregator(fresh_s=4, fold_after_s=10)
        self.hub.restore(b"")
        self.saved = self.hub.state()

    def deliver(self, snapshot: ReplicaSnapshot) -> None:
        self.sent.append(snapshot)
        self.hub.report(snapshot, self.now)

    @rule(name=names, requests=st.integers(1, 9))
    def requests_are_answered(self, name: int, requests: int) -> None:
        metrics = self.running.setdefault(name, ReplicaMetrics(f"replica {name}"))
        for _ in range(requests):
            metrics.request("recommend", 200, 0.01)
        self.answered += requests

    @rule(gets_lost=st.booleans())
    def every_process_sends(self, gets_lost: bool) -> None:
        for metrics in self.running.values():
            if gets_lost:
                self.sent.append(metrics.snapshot())  # or delivered later
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
        self.hub.fold_ended({f"replica {name}" for name in self.running}, self.now)

    @rule()
    def the_hub_is_killed(self) -> None:
        self.hub = MetricsAggregator(fresh_s=4, fold_after_s=10)
        self.hub.restore(self.saved)

    @precondition(lambda self: self.sent)
    @rule(choice=st.integers(0, 1000), seconds=st.sampled_from([1, 11]))
    def the_hub_is_killed_and_receives_snapshots_before_the_state(self, choice: int, seconds: int) -> None:
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
        assert len(self.hub._last) <= 3

    def teardown(self) -> None:
        for metrics in self.running.values():
            self.deliver(metrics.snapshot())
        assert self.hub.totals(self.now, {}).counters.get(ANSWERS, 0.0) == self.answered


Churn.TestCase.settings = settings(max_examples=300, stateful_step_count=20, deadline=None)
TestChurn = Churn.TestCase


def test_an_ended_replica_is_folded_once_and_its_later_snapshots_are_not_counted() -> None:
    hub, metrics = MetricsAggregator(fresh_s=4, fold_after_s=10), counted("a", 3)
    hub.restore(b"")
    hub.report(metrics.snapshot(), 0.0)
    hub.fold_ended(set(), 9.0)
    assert hub.totals(9.0, {}).counters[series(m.FOLDED)] == 0, "silent, but not for long"
    hub.fold_ended({"a"}, 11.0)
    assert hub.totals(11.0, {}).counters[series(m.FOLDED)] == 0, "the controller lists it as alive"
    hub.fold_ended(set(), 11.0)
    hub.report(metrics.snapshot(), 12.0)
    counters = hub.totals(12.0, {}).counters
    assert (counters[series(m.FOLDED)], counters[ANSWERS]) == (1, 3)


def test_gauges_of_fresh_replicas_are_merged_as_declared() -> None:
    hub, replicas = MetricsAggregator(fresh_s=4, fold_after_s=10), [counted(name, 0) for name in "abc"]
    for number, metrics in enumerate(replicas):
        metrics.resources(cpu_s=2.0, memory_bytes=100.0 * (number + 1), gpu=(10.0, 0.25 * number), lag_s=0.1 * number)
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


def test_the_verdict_is_that_of_the_replica_which_the_actor_answered_last(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = MetricsAggregator(fresh_s=4, fold_after_s=10)
    for name, verdict in (("b", "DRIFT"), ("a", "OK")):
        metrics = counted(name, 0)
        metrics.drift({"score.mean": verdict}, sent=1)
        hub.report(metrics.snapshot(), 0.0)
    hub.report(counted("c", 0).snapshot(), 0.0)
    assert hub.totals(0.0, {}).gauges[series(m.DRIFT_VERDICT, signal="score.mean")] == m.VERDICTS["OK"]


def test_prometheus_parser_reads_the_text_with_help_and_ordered_buckets() -> None:
    metrics = counted("a", 4)
    metrics.resources(1.5, 1e8, None, 0.0)
    snapshot = metrics.snapshot()
    shown = text(
        ApplicationTotals({**snapshot.counters, ("of_an_older_version_total", ()): 1.0}, snapshot.gauges)
    ).decode()
    families = {family.name: family for family in text_string_to_metric_families(shown)}
    assert {"rayfunnel_requests", "rayfunnel_request_seconds", "rayfunnel_memory_bytes"} <= set(families)
    assert not [name for name in families if name.endswith("_created") or name.startswith("of_an")]
    bounds = [s.labels["le"] for s in families["rayfunnel_request_seconds"].samples if s.name.endswith("_bucket")]
    assert bounds == [*map(str, m.SECONDS), "+Inf"]
    assert families["rayfunnel_requests"].type == "counter"
    assert all(families[name].documentation for name in families)


def test_a_metric_that_is_not_declared_or_has_other_labels_fails_at_once() -> None:
    metrics = ReplicaMetrics("a")
    with pytest.raises(ValueError, match="label"):
        metrics._of(m.REQUESTS, operation="recommend", state="200")
    with pytest.raises(ValueError, match="rayfunnel_memory_bytes has the labels"):
        series(m.MEMORY, deploymint="Scorer")
    with pytest.raises(KeyError):
        metrics._of(m.Metric("rayfunnel_mine_total", "counter", "Mine.", ()))
    with pytest.raises(AssertionError, match="declared twice"):
        m._counter("rayfunnel_requests_total", "Again.")


_counters = st.dictionaries(
    st.sampled_from([series(m.SHED, reason="queue"), series(m.EXPIRED, stage="queue"), ANSWERS, COUNT]),
    st.integers(0, 2**40).map(float),  # counters of whole numbers add up exactly in any order
)


@given(st.lists(_counters, max_size=6), st.randoms(use_true_random=False), st.integers(0, 6))
def test_snapshots_add_up_to_the_same_totals_in_any_order_whether_folded_or_not(
    replicas: list[dict[Series, float]], random: Random, folded: int
) -> None:
    snapshots = [ReplicaSnapshot(f"r{n}", 1, 2, "Ingress", counters, {}) for n, counters in enumerate(replicas)]
    older = [replace(snapshot, sequence=1, counters={}) for snapshot in snapshots]
    arriving = [*snapshots, *older, *snapshots]
    random.shuffle(arriving)
    hub = MetricsAggregator(fresh_s=4, fold_after_s=10)
    hub.restore(b"")
    for snapshot in arriving:
        hub.report(snapshot, now=0.0)
    hub.fold_ended({f"r{n}" for n in range(folded, len(replicas))}, now=11.0)
    expected: dict[Series, float] = {}
    for counters in replicas:
        add(expected, counters)
    found = dict(hub.totals(11.0, {}).counters)
    assert found.pop(series(m.FOLDED)) == min(folded, len(replicas))
    assert found == expected
    again = MetricsAggregator(fresh_s=4, fold_after_s=10)
    again.restore(hub.state())
    assert again.totals(11.0, {}).counters == hub.totals(11.0, {}).counters
