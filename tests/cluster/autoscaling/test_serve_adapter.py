"""The adapter between Serve's contexts and the policy, with Serve's own context class."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingContext

from cluster.autoscaling.observations import Counters
from cluster.autoscaling.serve_adapter import AutoscalingPolicy

INGRESS, SCORER = DeploymentID("Ingress", "recommender"), DeploymentID("Scorer", "recommender")


def context(
    deployment: DeploymentID, now: float, totals: dict[str, float], replicas: int = 1, raw: Any = None
) -> AutoscalingContext:
    replica = ReplicaID("r1", deployment)
    metrics = {name: {replica: [TimeStampedValue(now, value)]} for name, value in totals.items()}
    return AutoscalingContext(
        deployment_id=deployment,
        deployment_name=deployment.name,
        app_name=deployment.app_name,
        current_num_replicas=replicas,
        target_num_replicas=replicas,
        running_replicas=[replica],
        total_num_requests=0.0,
        total_queued_requests=0.0,
        aggregated_metrics={},
        raw_metrics=raw or (lambda: metrics),
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=8,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now,
        config=None,
    )


def totals(requests: float, busy_s: float = 0.0) -> dict[str, float]:
    counters = Counters(arrivals=requests, completions=requests, busy_s=busy_s, batches=requests / 8, items=requests)
    return {**counters._asdict(), "queued": 0.0, "slots": 2.0, "max_batch": 64.0}


def test_load_at_the_ingress_requests_replicas_of_a_stage() -> None:
    policy = AutoscalingPolicy(slo_ms=200, priors={"Scorer": [10, 5]})
    targets = {}
    for tick in range(60):
        now, sent = 1e9 + tick / 2, 500.0 * tick
        contexts = {
            INGRESS: context(INGRESS, now, totals(sent)),
            SCORER: context(SCORER, now, totals(sent, busy_s=0.05 * sent / 8)),
        }
        targets, state = policy(contexts)
        assert state == {}
    assert list(targets) == [SCORER], "the ingress stays as it is"
    assert 3 <= targets[SCORER] <= 8


def test_the_budget_counts_the_reported_cpus_of_replicas() -> None:
    policy = AutoscalingPolicy(slo_ms=200, priors={"Scorer": [10, 5]}, cpus=1.0)
    found = []
    for tick in range(60):
        now, sent = 1e9 + tick / 2, 500.0 * tick
        taken = {"num_cpus": 0.25, "num_gpus": 0.0} if tick < 59 else {}  # no replica reports it
        contexts = {
            INGRESS: context(INGRESS, now, totals(sent)),
            SCORER: context(SCORER, now, totals(sent, busy_s=0.05 * sent / 8) | taken),
        }
        found.append(policy(contexts)[0][SCORER])
    assert max(found) == found[-1] == 4


def test_an_error_is_caught_and_changes_nothing() -> None:
    def broken() -> Any:
        raise RuntimeError("no metrics")

    policy = AutoscalingPolicy()
    assert policy({SCORER: context(SCORER, 1e9, {}, raw=broken)}) == ({}, {})
    assert policy({SCORER: context(SCORER, 1e9, totals(0))})[0] == {SCORER: 1}


def test_a_replica_that_has_not_reported_yet_is_no_error() -> None:
    policy = AutoscalingPolicy()
    assert policy({SCORER: context(SCORER, 1e9, {"arrivals": 1.0})})[0] == {SCORER: 1}


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="utilization"):
        AutoscalingPolicy(utilization=0.8)
