"""The policy in Serve's controller: Scorer follows the load up and down."""

from __future__ import annotations

import pytest

from tests.support.load import Load
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config, application, changed

pytestmark = pytest.mark.long


def scorers(cluster: Cluster) -> int:
    return sum(replica.deployment == "Scorer" for replica in cluster.replicas())


def test_an_idle_scorer_sleeps_the_first_request_wakes_it_and_load_scales_it_up_and_down(
    cluster: Cluster, config: Config
) -> None:
    config = changed(
        config,
        stages__scoring__min_replicas=0,
        stages__scoring__max_replicas=3,
        cache__candidates_ttl_s=0,
        drift__enabled=False,
    )
    # A Scorer of the small model computes some 10,000 requests/s in full batches. The policy is told 5, so
    # that a load which two cores can make asks for three.
    application(config, "recommender")["autoscaling_policy"]["policy_kwargs"] = {
        "slo_ms": 500,
        "spare": 0,
        "utilisation": 0.0005,
        "stable_s": 10,
        "panic_s": 5,
        "startup_s": 5,
    }
    cluster.deploy(config)
    wait_for("no Scorer", lambda: scorers(cluster) == 0)
    answer = cluster.client.post("/v1/recommend", json={"user_id": "u1"})
    assert answer.status_code == 200
    assert answer.json()["degraded"] == ["scoring:timeout"], "retrieval's order, within the deadline"
    assert len(answer.json()["items"]) == 10
    wait_for("a Scorer, without another request", lambda: scorers(cluster) >= 1)

    def whole() -> bool:
        return bool(cluster.client.post("/v1/recommend", json={"user_id": "u1"}).json()["degraded"] == [])

    wait_for("whole answers", whole)
    with Load(cluster.url, rate=60, clients=10, body={"deadline_ms": 10_000}) as load:
        wait_for("more Scorers", lambda: scorers(cluster) >= 2)
    wait_for("the reason in the controller's log", lambda: "autoscaling Scorer: 1 → " in cluster.controller_log())
    load.assert_all_answered(at_least=20)
    wait_for("no Scorer again", lambda: scorers(cluster) == 0)
