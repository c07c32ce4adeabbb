"""The parts of the autoscaling policy, each by itself.

(Over 300 lines: the parts are small, and their tests stand together.)
"""

from __future__ import annotations

import random
from math import inf, nan

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.autoscaling.arrival_rate import ArrivalRate
from cluster.autoscaling.capacity import Demand, StageSpec, capacities, headroom, replicas_needed, round_up
from cluster.autoscaling.latency_model import LatencyModel, Line
from cluster.autoscaling.observations import Counters, Differences, Report
from cluster.autoscaling.provisioning import Provisioning
from cluster.autoscaling.resource_budget import fit_to_budget, resources
from cluster.autoscaling.stabilization import Stabilizer, Windows
from cluster.autoscaling.trend_trust import TrendTrust

COUNT = st.floats(0, 1e5)


def report(time: float, arrivals: float) -> dict[str, Report]:
    return {"r": Report(time, Counters(arrivals=arrivals))}


def arrived(differences: Differences, time: float, arrivals: float) -> list[float]:
    return [change.counters.arrivals for change in differences.update(report(time, arrivals), time)]


def test_a_lost_report_loses_no_counts() -> None:
    differences = Differences()
    assert arrived(differences, 0.0, 100) == []
    assert arrived(differences, 0.5, 150) == [50]
    assert differences.update({}, 1.0) == []
    assert arrived(differences, 1.5, 250) == [100]


def test_the_same_report_counts_once() -> None:
    differences = Differences()
    differences.update(report(0.0, 0), 0.0)
    assert [d.counters.arrivals for d in differences.update(report(0.5, 10), 0.5)] == [10]
    assert differences.update(report(0.5, 10), 0.7) == []


def test_a_restarted_counter_begins_anew() -> None:
    differences = Differences()
    arrived(differences, 0.0, 1000)
    assert arrived(differences, 0.5, 3) == []
    assert arrived(differences, 1.0, 8) == [5]
    assert arrived(differences, 1.5, 18) == [10]


@pytest.mark.parametrize("bad", [nan, inf, -inf, -5.0, 1e18])
def test_an_invalid_report_is_left_out(bad: float) -> None:
    differences = Differences()
    arrived(differences, 0.0, 1000)
    assert arrived(differences, 0.5, bad) == []
    assert arrived(differences, 1.0, 1100) == [100]


def test_an_outlier_counts_once_the_next_report_confirms_it() -> None:
    differences = Differences()
    for tick in range(10):
        arrived(differences, tick / 2, 50.0 * tick)
    assert arrived(differences, 5.0, 40_000) == []
    assert arrived(differences, 5.5, 550) == [100], "an outlier"
    assert arrived(differences, 6.0, 30_000) == []
    assert arrived(differences, 6.5, 45_000) == [44_450], "confirmed"


def test_a_stages_line_is_learned_from_its_batches() -> None:
    truth, model, rng = Line(0.010, 0.001), LatencyModel(Line(0.004, 0.0005), 64), random.Random(1)
    for _ in range(400):
        items = rng.randint(1, 64)
        model.add(20, 20 * items, 20 * truth.seconds(items) * rng.uniform(0.9, 1.1), 0.5)
    assert model.line.a == pytest.approx(truth.a, rel=0.15)
    assert model.line.c == pytest.approx(truth.c, rel=0.05)


def test_one_stall_does_not_change_the_line() -> None:
    truth, model = Line(0.010, 0.001), LatencyModel(Line(0.010, 0.001), 64)
    for tick in range(200):
        items = 1 + tick * 7 % 64
        model.add(20, 20 * items, 20 * truth.seconds(items), 0.5)
    before = model.line.seconds(32)
    model.add(20, 20 * 32, 20 * 5.0, 0.5)
    assert model.line.seconds(32) == pytest.approx(before, rel=0.1)


def test_the_line_follows_a_slower_model() -> None:
    model = LatencyModel(Line(0.010, 0.001), 64, forget_s=60)
    for tick in range(600):
        slower = 3.0 if tick >= 200 else 1.0
        items = 1 + tick * 7 % 64
        model.add(20, 20 * items, 20 * slower * (0.010 + 0.001 * items), 0.5)
    assert model.line.seconds(32) == pytest.approx(3 * 0.042, rel=0.15)


@example([(1.5, 5.533799526299743e278, 1.0, 0.0)])
@given(st.lists(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4), max_size=20))
def test_a_line_never_falls(invalid: list[tuple[float, float, float, float]]) -> None:
    model = LatencyModel(Line(0.01, 0.001))
    for batches, items, busy_s, elapsed_s in invalid:
        model.add(batches, items, busy_s, elapsed_s)
    assert model.line.a >= 0
    assert model.line.c >= 0
    assert model.line.seconds(16) < inf


def fed(rate: object, seconds: float, seed: int = 1, burst: int = 1) -> ArrivalRate:
    """Poisson arrivals in bursts of so many; `rate` is a function of time."""
    rng, arrivals = random.Random(seed), ArrivalRate()
    for tick in range(int(seconds * 2)):
        expected = rate(tick / 2) / 2 / burst  # type: ignore[operator]
        count = max(0, round(rng.gauss(expected, expected**0.5)))
        arrivals.add(tick / 2, tick / 2 + 0.5, burst * count)
    return arrivals


def test_rates_are_means_over_their_windows() -> None:
    arrivals = ArrivalRate()
    for second in range(20):
        arrivals.add(second, second + 1, 100 if second < 15 else 200)
    assert arrivals.rate(5, 20) == pytest.approx(200)
    assert arrivals.rate(10, 20) == pytest.approx(150)


def test_steady_traffic_has_no_trend() -> None:
    rising = sum(fed(lambda _: 500.0, 60, seed).trend(60).slope > 0 for seed in range(200))
    assert rising <= 1, "three windows, each with a chance of 1 in 300,000"


def test_a_ramp_is_detected_two_seconds_after_its_onset() -> None:
    arrivals = fed(lambda t: 500 + max(0.0, t - 58) * 450, 60)
    trend = arrivals.trend(60)
    assert trend.slope == pytest.approx(450, rel=0.35)
    assert trend.rate == pytest.approx(1400, rel=0.2)


def test_a_ramp_is_detected_a_second_after_its_onset() -> None:
    slopes = [fed(lambda t: 500 + max(0.0, t - 58.75) * 450, 60, seed).trend(60).slope for seed in range(50)]
    assert sum(slope > 0 for slope in slopes) >= 48
    assert sum(slopes) / 50 == pytest.approx(450, rel=0.2)


def test_a_ramp_of_few_requests_is_detected_within_seconds() -> None:
    seen, dispersions = 0, []
    for seed in range(60):
        rng, arrivals = np.random.default_rng(seed), ArrivalRate()
        for quarter in range(18 * 4):
            at = quarter / 4
            arrivals.add(at, at + 0.25, int(rng.poisson((5 + 4.5 * max(0.0, at + 0.125 - 15)) / 4)))
            if at + 0.25 == 15:
                dispersions.append(arrivals.dispersion(15))
        seen += arrivals.trend(18).slope > 0
    assert seen >= 40, "3 s after its onset"
    assert sum(dispersions) / 60 < 1.3, "rng alone"


def test_a_ramp_that_goes_on_is_followed_with_its_own_slope() -> None:
    for seconds in (3, 5, 8):
        slopes = [fed(lambda t, s=seconds: 500 + max(0.0, t - 60 + s) * 200, 60, i).trend(60).slope for i in range(50)]
        assert sum(slopes) / 50 == pytest.approx(200, rel=0.2), seconds


def test_a_few_simultaneous_requests_are_no_trend() -> None:
    rng, arrivals, found = np.random.default_rng(1), ArrivalRate(), 0
    for tick in range(2 * 3600):
        arrivals.add(tick / 2, tick / 2 + 0.5, int(rng.poisson(2.5)))
        found += arrivals.trend((tick + 1) / 2).slope > 0
    assert found == 0


def test_bursty_traffic_has_a_higher_dispersion() -> None:
    plain, bursty = fed(lambda _: 500.0, 60), fed(lambda _: 500.0, 60, burst=16)
    assert plain.dispersion(60) < 3
    assert bursty.dispersion(60) == pytest.approx(16, rel=0.5)


@given(st.lists(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 2, COUNT), max_size=20))
def test_invalid_times_leave_a_finite_rate(invalid: list[tuple[float, float, float]]) -> None:
    arrivals = ArrivalRate()
    arrivals.add(0, 1, 10)
    for began, ended, count in invalid:
        if began == began and abs(began) < 1e9 and abs(ended) < 1e9:
            arrivals.add(began, min(ended, began + 100), count)
        else:
            arrivals.add(nan, ended, count)
    assert 0 <= arrivals.level(1.0) < inf


@given(COUNT, COUNT, COUNT, COUNT, st.floats(0.1, 1e4))
def test_the_need_grows_with_every_part_of_the_demand(
    now: float, mean: float, rise: float, excess: float, by: float
) -> None:
    def law(demand: Demand) -> float:
        return replicas_needed(demand, rate=100, rho=0.8, extra=50, drain_s=0.2)

    base = law(Demand(now, mean, rise, excess))
    assert base <= law(Demand(now + by, mean, rise, excess))
    assert base <= law(Demand(now, mean + by, rise, excess))
    assert base <= law(Demand(now, mean, rise + by, excess))
    assert base <= law(Demand(now, mean, rise, excess + by))


def test_the_headroom_does_not_grow_with_the_rate_but_with_burstiness() -> None:
    assert headroom(16, 0.1, 0.01) > 10 * headroom(1, 0.1, 0.01)
    assert headroom(1, 0.2, 0.01) == pytest.approx(headroom(1, 0.1, 0.01) / 2)


def test_batches_are_as_large_as_the_objective_allows() -> None:
    spec, line = StageSpec(max_replicas=9, max_batch=64), Line(0.01, 0.001)
    assert capacities({"s": spec}, {"s": line}, slo_s=1.0)["s"].batch == 64
    tight = capacities({"s": spec}, {"s": line}, slo_s=0.06)["s"]
    assert tight.batch == pytest.approx(20, abs=1)
    assert tight.rate == pytest.approx(20 / 0.03, rel=0.05)


def test_a_rounding_error_does_not_add_a_replica() -> None:
    assert round_up(3.0000000001) == 3
    assert round_up(3.01) == 4


def test_up_at_once_and_down_after_the_stable_window() -> None:
    stabilizer = Stabilizer(Windows(stable_s=300))
    target, _ = stabilizer.target(0, 4, 4, 7.6, 7.6)
    assert target == 8
    for now in range(1, 300):
        target, _ = stabilizer.target(now, target, target, 3.6, 3.6)
        assert target == 8, now
    target, reason = stabilizer.target(301, target, target, 3.6, 3.6)
    assert (target, reason) == (4, "stable window")


def test_a_wrong_forecast_counts_for_seconds_only() -> None:
    stabilizer = Stabilizer(Windows(stable_s=300, forecast_s=10))
    target, reason = stabilizer.target(0, 6, 6, 5.6, 11)
    assert (target, reason) == (11, "rising")
    for now in range(1, 12):
        target, _ = stabilizer.target(now, target, 6, 5.6, 5.6)
    assert target == 6


def test_a_forecast_counts_until_its_replicas_could_be_ready() -> None:
    stabilizer = Stabilizer(Windows(stable_s=300, forecast_s=10))
    target, _ = stabilizer.target(0, 6, 6, 5.6, 11, startup_s=20)
    assert target == 11
    for now in range(1, 31):
        target, _ = stabilizer.target(now, target, 6, 5.6, 5.6, startup_s=20)
        assert target == 11, now
    assert stabilizer.target(31, target, 6, 5.6, 5.6, startup_s=20)[0] == 6


def test_ready_replicas_do_not_shrink_in_panic() -> None:
    stabilizer = Stabilizer(Windows(stable_s=5, panic_s=30))
    target, reason = stabilizer.target(0, 2, 2, 9.5, 9.5)
    assert (target, reason) == (10, "panic")
    for now in range(1, 30):
        target, reason = stabilizer.target(now, target, 10, 1.5, 1.5)
        assert (target, reason) == (10, "panic holds" if now > 10 else "holds")
    assert stabilizer.target(31, target, 10, 1.5, 1.5)[0] == 2


def test_a_need_close_to_a_whole_number_does_not_oscillate() -> None:
    stabilizer = Stabilizer(Windows(stable_s=1, dead_band=0.1))
    target = 11
    for now in range(0, 100, 2):
        target, _ = stabilizer.target(now, target, target, 10.2 + 0.3 * (-1) ** (now // 2), 0)
        assert target == 11
    assert stabilizer.target(102, target, target, 9.0, 0)[0] == 10


def test_start_up_times_are_learned() -> None:
    provisioning = Provisioning(startup_s=60, expiry_s=60)
    now, ready = 0.0, 1
    for count in range(2, 12):
        provisioning.limit(now, ready, count)
        provisioning.requested(now, count)
        now, ready = now + 7, count
        provisioning.limit(now, ready, count)
    assert provisioning.startup_s == 7


def test_a_replica_withdrawn_before_it_was_ready_raises_the_start_up_time() -> None:
    provisioning = Provisioning(startup_s=10, expiry_s=60)
    for now in range(16):
        provisioning.requested(now, provisioning.limit(now, 1, 2))
    provisioning.requested(16, provisioning.limit(16, 1, 1))
    assert provisioning.startup_s == 16
    provisioning.requested(17, provisioning.limit(17, 1, 2))
    provisioning.requested(20, provisioning.limit(20, 1, 1))
    assert provisioning.startup_s == 16, "one that was withdrawn sooner gives no information"


def test_requests_stop_when_the_cluster_has_no_room_and_are_tried_again() -> None:
    provisioning = Provisioning(startup_s=5, expiry_s=60, retry_s=30)
    limits = []
    for now in range(200):
        limits.append(provisioning.limit(now, 4, 10))
        provisioning.requested(now, limits[-1])
    assert limits[30] == 10
    assert limits[70] == 4
    assert provisioning.room == 4
    assert 5 in limits[70:], "one more is tried now and then"
    assert max(limits[70:]) == 5


def test_new_room_in_the_cluster_is_used() -> None:
    provisioning = Provisioning(startup_s=5, expiry_s=60)
    for now in range(70):
        provisioning.requested(now, provisioning.limit(now, 4, 10))
    assert provisioning.room == 4
    assert provisioning.limit(71, 5, 10) == 10
    assert provisioning.room is None


SPECS = {
    "a": StageSpec(1, 50, num_cpus=0.5),
    "b": StageSpec(0, 50, num_cpus=1.0, num_gpus=0.25),
    "c": StageSpec(2, 50, num_cpus=0.1),
}


@given(
    st.fixed_dictionaries({name: st.integers(spec.min_replicas, 50) for name, spec in SPECS.items()}),
    st.floats(1, 90),
    st.floats(0.25, 15),
)
def test_the_budget_holds_and_no_room_is_left_unused(wanted: dict[str, int], cpus: float, gpus: float) -> None:
    shared = fit_to_budget(wanted, SPECS, cpus, gpus)
    assert all(SPECS[name].min_replicas <= count <= wanted[name] for name, count in shared.items())
    used_cpus, used_gpus = resources(shared, SPECS)
    assert used_cpus <= cpus + 1e-6
    assert used_gpus <= gpus + 1e-6
    for name, count in shared.items():
        if count < wanted[name]:
            more_cpus, more_gpus = resources({**shared, name: count + 1}, SPECS)
            assert more_cpus > cpus or more_gpus > gpus, f"{name} could have one more"


def test_stages_share_a_tight_budget_by_need() -> None:
    specs = {"a": StageSpec(1, 100), "b": StageSpec(1, 100)}
    assert fit_to_budget({"a": 60, "b": 20}, specs, cpus=40, gpus=inf) == {"a": 30, "b": 10}


def test_wrong_forecasts_lower_the_trust_and_right_ones_do_not() -> None:
    jumps, ramps = TrendTrust(0.3), TrendTrust(0.3)
    for episode in range(10):
        at = 100.0 * episode
        jumps.update(at, 500.0, 500.0, 1000.0, 5.0)
        jumps.update(at + 5, 500.0, 500.0, 0.0, 5.0)
        ramps.update(at, 500.0, 500.0, 1000.0, 5.0)
        ramps.update(at + 5, 1500.0, 1500.0, 0.0, 5.0)
    assert jumps.trust < 0.05
    assert ramps.trust == 1.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 60)), max_size=30))
def test_the_trust_is_always_a_share(steps: list[tuple[float, float, float, float]]) -> None:
    trend_trust, now = TrendTrust(0.5), 0.0
    for gap, level, growth, lead_s in steps:
        now += gap
        assert 0.0 <= trend_trust.update(now, level, level, growth, lead_s) <= 1.0
