"""Every stage in the ingress process, on an external Redis that stops and returns."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from tests.support.external_redis import ExternalRedis
from tests.support.parity import assert_alike, in_one_process, mixed_calls, over_http
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config, application, changed


@pytest.fixture
def compact(cluster: Cluster, config: Config, external_redis: ExternalRedis) -> Config:
    """Deployed: all stages in the ingress, no application `store`."""
    config = changed(
        config,
        store__redis_url=f"redis://127.0.0.1:{external_redis.port}/0",
        stages__candidates__placement="ingress",
        stages__scoring__placement="ingress",
        stages__ranking__placement="ingress",
        drift__enabled=False,
    )
    config["applications"].remove(application(config, "store"))
    cluster.deploy(config)
    return config


async def test_with_every_stage_placed_in_the_ingress_one_deployment_gives_the_same_answers(
    cluster: Cluster,
    compact: Config,
    external_redis: ExternalRedis,
    artifact: Artifact,
    in_process: Callable[..., Recommender],
) -> None:
    assert cluster.states() == {"recommender": ("RUNNING", {"Ingress": "HEALTHY", "MetricsHub": "HEALTHY"})}
    calls = mixed_calls()
    on_own = changed(compact, store__port=external_redis.port)
    assert_alike(over_http(cluster, calls), await in_one_process(calls, on_own, artifact, in_process), calls)
    similar = cluster.client.post("/v1/similar", json={"item_id": "i8", "deadline_ms": 10_000}).json()
    assert len(similar["items"]) == 10


@pytest.mark.parametrize("outage", ["stopped", "hanging"])
def test_without_the_store_answers_come_in_time_and_say_so_and_heal_when_it_is_back(
    cluster: Cluster, compact: Config, external_redis: ExternalRedis, outage: str
) -> None:
    def ask(user: int) -> dict[str, Any]:
        answer = cluster.client.post("/v1/recommend", json={"user_id": f"u{user}", "deadline_ms": 2000})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    whole = ask(1)
    assert whole["degraded"] == []
    assert external_redis.process
    if outage == "stopped":
        external_redis.stop()
    else:
        os.kill(external_redis.process.pid, signal.SIGSTOP)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(ask, range(40)))
    # Not ":deadline" nor ":timeout": the other stages had their time.
    assert {tuple(body["degraded"]) for body in answers} == {("profile:store",)}
    assert all(len(body["items"]) == 10 for body in answers)
    event = {"user_id": "u1", "item_id": "i1", "event_type": "view", "timestamp": 1.6e9}
    refused = cluster.client.post("/v1/events", json={"events": [event]})
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert cluster.client.get("/v1/health/ready").json()["store"] != "ok"
    if outage == "stopped":
        external_redis.start()
    else:
        os.kill(external_redis.process.pid, signal.SIGCONT)
    wait_for("whole answers again", lambda: ask(1)["degraded"] == [], within_s=10)
    assert ask(1)["items"] == whole["items"]
    assert cluster.client.get("/v1/health/ready").json()["store"] == "ok"
