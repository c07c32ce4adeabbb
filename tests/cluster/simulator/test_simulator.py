"""The simulator against queueing theory, and the policies that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from cluster.autoscaling.capacity import StageSpec
from cluster.autoscaling.latency_model import Line
from cluster.autoscaling.observations import Observation
from cluster.autoscaling.policy import PolicyConfig
from cluster.simulator.funnel import SimulatedFunnel
from cluster.simulator.reference_policies import FixedReplicas, Knative, Kubernetes, Oracle, RayfunnelPolicy
from cluster.simulator.simulator import simulate
from cluster.simulator.traces import Trace, make
from deployments.errors import ConfigError
from graphs.commands.simulate import base_replicas, example_funnel, maker


def one_stage(line: Line, max_batch: int = 1, slo_s: float = 0.5, most: int = 1000) -> SimulatedFunnel:
    return SimulatedFunnel({"s": StageSpec(1, most, max_batch=max_batch, prior=line)}, {"s": line}, slo_s=slo_s)


def constant(funnel: SimulatedFunnel, rate: float, seconds: float, seed: int = 1) -> Trace:
    steps = round(seconds / funnel.step_s)
    counts = np.random.default_rng(seed).poisson(rate * funnel.step_s, steps)
    return Trace("constant", funnel.step_s, counts, np.full(round(seconds * 10), rate))


def test_every_request_is_answered_late_shed_or_still_there() -> None:
    observations: list[Observation] = []

    class Recorded(FixedReplicas):
        def decide(self, observation: Observation) -> Mapping[str, int]:
            observations.append(observation)
            return super().decide(observation)

    funnel = replace(example_funnel(), max_queue=150)
    trace, start = make("flash5", 1, 300, funnel.step_s), base_replicas(funnel, 300)
    run = simulate(trace, Recorded(start), funnel, 1, start, warm_up_s=0)
    assert run.arrived.sum() == trace.counts.sum()
    assert 0.3 < run.miss_share < 0.9, "five times the load that there is capacity for"
    last = observations[-1]
    arrived, answered, late, shed = last.root["ingress"].counters[:4]
    assert min(answered, late, shed) > 0
    assert answered + late + shed + sum(stage.ongoing for stage in last.stages.values()) == arrived
    assert late == run.missed[:-2].sum() - shed


def test_a_saturated_replica_answers_most_of_what_its_batches_allow_and_no_more() -> None:
    funnel = one_stage(Line(0.010, 0.002), max_batch=20)
    trace = constant(funnel, 2000, 120)
    run = simulate(trace, FixedReplicas({"s": 1}), funnel, 1, {"s": 1}, warm_up_s=10)
    # The rest is computed in vain: it began in time for a batch of mean length, and its batch took longer.
    assert 0.6 * 400 < (1 - run.miss_share) * 2000 < 1.02 * 400


def test_a_lone_server_waits_as_queueing_theory_says() -> None:
    # M/G/1 in heavy traffic: P(wait > t) = ρ exp(−t / m), m = s (1 + cv²) / (2 (1 − ρ)), and the service itself.
    funnel = one_stage(Line(0.050, 0.0), slo_s=0.6)
    run = simulate(constant(funnel, 14, 20_000), FixedReplicas({"s": 1}), funnel, 1, {"s": 1})
    mean_s = 0.050 * 1.04 / (2 * 0.3)
    assert run.p99_s == pytest.approx(mean_s * log(70) + 0.050, rel=0.1)


def test_replicas_count_from_the_request_and_serve_after_the_start_up() -> None:
    funnel = one_stage(Line(0.010, 0.0))
    run = simulate(constant(funnel, 50, 60), FixedReplicas({"s": 5}), funnel, 1, {"s": 1}, warm_up_s=0)
    assert run.billed[:, 0].min() == 5
    ready_at = np.nonzero(run.ready[:, 0] == 5)[0][0] / 2
    assert 4 < ready_at < 9


def test_the_policy_requests_no_more_than_the_cluster_has_room_for() -> None:
    funnel = example_funnel(most=100)
    limited = SimulatedFunnel(funnel.specs, funnel.lines, placeable={"candidates": 5, "scoring": 12, "ranking": 5})
    trace = make("flash10", 1, 500, funnel.step_s)
    rooms = []

    class Recorded(RayfunnelPolicy):
        def decide(self, observation: Observation) -> Mapping[str, int]:
            decision = self.policy.decide(observation)["scoring"]
            rooms.append((decision.room, decision.target))
            return super().decide(observation)

    run = simulate(trace, Recorded(limited.specs), limited, 1, base_replicas(funnel, 500))
    assert run.ready[:, 1].max() == 12
    limited_targets = [target for room, target in rooms if room == 12]
    assert limited_targets, "the limit was not found"
    assert max(limited_targets) <= 13, "it may try one more"


def test_the_same_seed_gives_the_same_run() -> None:
    funnel = example_funnel()
    trace = make("mmpp", 3, 200, funnel.step_s)
    runs = [simulate(trace, RayfunnelPolicy(funnel.specs), funnel, 3, base_replicas(funnel, 200)) for _ in range(2)]
    assert (runs[0].ready == runs[1].ready).all()
    assert runs[0].missed.sum() == runs[1].missed.sum()


def test_ours_misses_less_in_a_flash_crowd_than_policies_without_a_forecast() -> None:
    funnel = example_funnel()
    trace = make("flash10", 2, 500, funnel.step_s)
    start = base_replicas(funnel, 500)
    ours, knative, kubernetes = (
        simulate(trace, policy, funnel, 2, start)
        for policy in (RayfunnelPolicy(funnel.specs), Knative(funnel.specs), Kubernetes(funnel.specs))
    )
    assert ours.miss_share < knative.miss_share / 3
    assert ours.miss_share < kubernetes.miss_share / 3


def test_the_oracle_misses_almost_nothing() -> None:
    funnel = example_funnel()
    trace = make("flash10", 2, 500, funnel.step_s)
    run = simulate(trace, Oracle(trace, funnel), funnel, 2, base_replicas(funnel, 500))
    assert run.miss_share < 1e-3


def test_gaps_have_the_coefficient_of_variation_in_the_name_of_the_trace() -> None:
    for cv in (1, 2, 4):
        trace = make(f"gamma{cv}", 1, 250, 0.004)
        per_second = trace.counts[: len(trace.counts) // 250 * 250].reshape(-1, 250).sum(axis=1)
        assert per_second.mean() == pytest.approx(500, rel=0.05)
        assert per_second.var() / per_second.mean() == pytest.approx(cv**2, rel=0.3)


def test_a_csv_of_counts_is_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("second,count\n0,100\n1,300\n")
    trace = make(str(path), 1, 0, 0.004)
    assert trace.seconds == 2
    assert trace.counts[:250].sum() == pytest.approx(100, abs=40)
    path.write_text("second,count\n0,many\n")
    with pytest.raises(ValueError, match="last column must hold counts"):
        make(str(path), 1, 0, 0.004)


def test_an_unknown_trace_or_policy_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="no trace or file 'flash11'"):
        make("flash11", 1, 500, 0.004)
    with pytest.raises(ConfigError, match="no policy 'best'"):
        maker("best")


def test_repeated_jumps_cost_less_once_forecasts_are_trusted_less() -> None:
    funnel = example_funnel()
    trace = make("mmpp", 1, 300, funnel.step_s)
    start = base_replicas(funnel, float(trace.rates[0]))
    trusting, doubting = (
        simulate(trace, RayfunnelPolicy(funnel.specs, PolicyConfig(slo_s=funnel.slo_s, doubt=doubt)), funnel, 1, start)
        for doubt in (0.0, 0.3)
    )
    assert doubting.replica_seconds < 0.8 * trusting.replica_seconds
    assert doubting.miss_share < 1e-3
