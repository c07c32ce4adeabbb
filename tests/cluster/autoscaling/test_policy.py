"""The policy as a whole: properties for every load, and for invalid reports."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.autoscaling.capacity import StageSpec
from cluster.autoscaling.latency_model import Line
from cluster.autoscaling.observations import Counters, Observation, Report, StageObservation
from cluster.autoscaling.policy import Decision, Policy, PolicyConfig
from cluster.autoscaling.resource_budget import resources
from cluster.autoscaling.stabilization import Windows

SPECS = {
    "candidates": StageSpec(1, 40, prior=Line(0.005, 0.001), max_batch=32, num_cpus=0.5, startup_s=5),
    "scoring": StageSpec(1, 60, prior=Line(0.010, 0.002), max_batch=32, num_cpus=1.0, num_gpus=0.25, startup_s=5),
    "ranking": StageSpec(0, 20, prior=Line(0.001, 0.0002), max_batch=32, num_cpus=0.1, startup_s=5),
}


class FakeCluster:
    """Replicas that serve `rate` requests/s and report to a policy; a replica is ready after 5 s."""

    def __init__(self, policy: Policy, rate: Callable[[float], float], seed: int = 1, queue: float = 0.0) -> None:
        self.policy, self.rate, self.queue = policy, rate, queue
        self.rng = random.Random(seed)
        self.now = 1e9
        self.root = Counters()
        self.stages = {name: Counters() for name in SPECS}
        self.target = {name: max(1, spec.min_replicas) for name, spec in SPECS.items()}
        self.pending: dict[str, list[tuple[float, int]]] = {name: [] for name in SPECS}
        self.ready = dict(self.target)

    def tick(self, invalid: Report | None = None) -> dict[str, Decision]:
        self.now += 0.5
        expected = max(0.0, self.rate(self.now - 1e9)) / 2
        count = max(0, round(self.rng.gauss(expected, expected**0.5)))
        self.root = _plus(self.root, arrivals=count, completions=count)
        for name, spec in SPECS.items():
            batches = -(-count // 8)
            busy_s = spec.prior.a * batches + spec.prior.c * count
            self.stages[name] = _plus(
                self.stages[name], arrivals=count, completions=count, busy_s=busy_s, batches=batches, items=count
            )
            while self.pending[name] and self.pending[name][0][0] <= self.now - 5:
                self.ready[name] = max(self.ready[name], self.pending[name].pop(0)[1])
            self.ready[name] = min(self.ready[name], self.target[name])
        decisions = self.policy.decide(self.observation(invalid))
        for name, decision in decisions.items():
            if decision.target > self.target[name]:
                self.pending[name].append((self.now, decision.target))
            self.target[name] = decision.target
        return decisions

    def observation(self, invalid: Report | None) -> Observation:
        stages = {
            name: StageObservation(
                self.ready[name],
                self.target[name],
                {"r": invalid or Report(self.now, self.stages[name], self.queue / 3)},
            )
            for name in SPECS
        }
        return Observation(self.now, {"i": invalid or Report(self.now, self.root)}, stages)


def _plus(counters: Counters, **more: float) -> Counters:
    return counters._replace(**{name: getattr(counters, name) + value for name, value in more.items()})


def settled(
    rate: float, queue: float = 0.0, config: PolicyConfig | None = None, ticks: int = 60
) -> dict[str, Decision]:
    fake = FakeCluster(Policy(SPECS, config), lambda _: rate, queue=queue)
    for _ in range(ticks):
        decisions = fake.tick()
    return decisions


rates = st.floats(0, 20_000)


@settings(max_examples=25, deadline=None)
@given(rates, st.floats(0, 5000), st.floats(3, 100), st.floats(0.25, 20))
def test_targets_are_always_within_bounds_and_budget(rate: float, queue: float, cpus: float, gpus: float) -> None:
    fake = FakeCluster(Policy(SPECS, PolicyConfig(cpus=cpus, gpus=gpus)), lambda t: rate if t > 5 else 0, queue=queue)
    for _ in range(40):
        targets = {name: decision.target for name, decision in fake.tick().items()}
        assert all(spec.min_replicas <= targets[name] <= spec.max_replicas for name, spec in SPECS.items())
        used_cpus, used_gpus = resources(targets, SPECS)
        assert used_cpus <= cpus + 1e-6
        assert used_gpus <= gpus + 1e-6


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 5000), st.floats(1.2, 3))
def test_more_traffic_never_means_fewer_replicas(rate: float, times: float) -> None:
    less, more = settled(rate), settled(rate * times + 10)
    assert all(less[name].target <= more[name].target for name in SPECS)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 3000), st.floats(0, 5000), st.floats(0, 5000))
def test_a_longer_queue_never_means_fewer_replicas(rate: float, queue: float, longer: float) -> None:
    less, more = settled(rate, queue), settled(rate, queue + longer)
    assert all(less[name].target <= more[name].target for name in SPECS)


@pytest.mark.parametrize("rate", [20.0, 300.0, 1500.0, 2500.0])
def test_constant_load_causes_no_oscillation(rate: float) -> None:
    fake = FakeCluster(Policy(SPECS), lambda _: rate)
    changes = dict.fromkeys(SPECS, 0)
    direction = dict.fromkeys(SPECS, 0)
    before = dict(fake.target)
    for tick in range(2 * 3600 * 2):
        for name, decision in fake.tick().items():
            moved = (decision.target > before[name]) - (decision.target < before[name])
            if moved and tick > 1200:
                changes[name] += moved == -direction[name]
                direction[name] = moved
            before[name] = decision.target
    assert max(changes.values()) <= 8, changes  # 4 an hour


number = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([nan, inf, -inf, -1.0, 0.0, 1e300]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Report, number, st.builds(Counters, *[number] * 7), number), min_size=1, max_size=4))
def test_invalid_reports_cause_no_error_and_no_large_change(invalid: list[Report]) -> None:
    fake = FakeCluster(Policy(SPECS), lambda _: 800.0)
    for _ in range(60):
        fake.tick()
    before = dict(fake.target)
    for report in invalid:
        fake.tick(report)
        fake.tick()
    for name, spec in SPECS.items():
        assert spec.min_replicas <= fake.target[name] <= spec.max_replicas
        assert before[name] <= fake.target[name] <= max(before[name] + 2, 1.5 * before[name]), name


@pytest.mark.parametrize("times", [0.0, 0.01, 30.0])
def test_one_wrong_counter_causes_no_large_change(times: float) -> None:
    fake = FakeCluster(Policy(SPECS), lambda _: 800.0)
    for _ in range(60):
        fake.tick()
    before = dict(fake.target)
    fake.tick(Report(fake.now + 0.5, Counters(*[times * value for value in fake.root])))
    for _ in range(10):
        fake.tick()
    assert all(before[name] <= fake.target[name] <= max(before[name] + 2, 1.5 * before[name]) for name in SPECS)


def test_missing_reports_keep_the_targets() -> None:
    fake = FakeCluster(Policy(SPECS), lambda _: 800.0)
    for _ in range(60):
        before = fake.tick()
    seen = fake.observation(None)
    blind = {name: StageObservation(view.ready, view.target) for name, view in seen.stages.items()}
    for second in range(1, 60):
        decisions = fake.policy.decide(Observation(fake.now + second, {}, blind))
    assert {n: d.target for n, d in decisions.items()} == {n: d.target for n, d in before.items()}


def test_all_stages_move_together_when_a_flash_crowd_comes() -> None:
    fake = FakeCluster(Policy(SPECS), lambda t: 300 + 270 * min(10, max(0.0, t - 60)))
    for _ in range(120):
        fake.tick()
    before = dict(fake.target)
    asked_at: dict[str, float] = {}
    for tick in range(20):
        for name, decision in fake.tick().items():
            if decision.target > before[name]:
                asked_at.setdefault(name, tick / 2)
    assert asked_at["candidates"] <= 2
    assert asked_at["scoring"] <= 2


def test_an_idle_stage_with_minimum_zero_scales_to_zero_and_back_on_the_first_request() -> None:
    config = PolicyConfig(windows=Windows(stable_s=60))
    fake = FakeCluster(Policy(SPECS, config), lambda t: 50.0 if t < 30 or t > 160 else 0.0)
    for _ in range(320):
        decisions = fake.tick()
    assert decisions["ranking"].target == 0
    assert decisions["ranking"].reason == "idle"
    assert decisions["scoring"].target == 1
    for _ in range(4):
        decisions = fake.tick()
    assert decisions["ranking"].target >= 1


def test_cache_hits_lower_the_rate_of_a_stage() -> None:
    policy = Policy(SPECS)
    root, candidates = Counters(), Counters()
    for tick in range(1200):
        root = _plus(root, arrivals=500, completions=500)
        candidates = _plus(candidates, arrivals=200, completions=200, batches=20, items=200, busy_s=0.3)
        now = 1e9 + tick / 2
        seen = {"candidates": StageObservation(1, 1, {"r": Report(now, candidates)})}
        decision = policy.decide(Observation(now, {"i": Report(now, root)}, seen))["candidates"]
    assert decision.rate == pytest.approx(400, rel=0.1)


def test_requests_dropped_before_a_stage_do_not_count_as_cache_hits() -> None:
    policy = Policy(SPECS)
    root, scoring = Counters(), Counters()
    for tick in range(1200):
        root = _plus(root, arrivals=500, completions=200, expired=300)
        scoring = _plus(scoring, arrivals=200, completions=200, batches=20, items=200, busy_s=0.6)
        now = 1e9 + tick / 2
        seen = {"scoring": StageObservation(1, 1, {"r": Report(now, scoring)})}
        decision = policy.decide(Observation(now, {"i": Report(now, root)}, seen))["scoring"]
    assert decision.rate == pytest.approx(1000, rel=0.01)


def test_a_decision_has_its_reason_and_inputs() -> None:
    decision = settled(800.0)["scoring"]
    assert decision.mu > 0
    assert decision.desired * decision.mu * decision.rho >= decision.rate
    assert 1 <= decision.target <= decision.desired
    assert decision.reason
    short = settled(800.0, config=PolicyConfig(gpus=0.5))["scoring"]
    assert (short.target, short.reason) == (2, "budget")


@pytest.mark.parametrize("wrong", [{"slo_s": 0.0}, {"tail": 1.0}, {"utilisation": 1.2}, {"sigmas": nan}])
def test_invalid_parameters_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PolicyConfig(**wrong)  # type: ignore[arg-type]
