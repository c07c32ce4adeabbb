"""The catalogue in two shards: the same answers, and partial ones while a shard is away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from tests.support.load import Load
from tests.support.parity import in_one_process, over_http
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config, changed


async def test_shards_answer_as_one_catalogue_and_outlive_the_loss_of_one(
    cluster: Cluster, config: Config, artifact: Artifact, in_process: Callable[..., Recommender]
) -> None:
    sharded = changed(config, stages__candidates__shards=2, cache={}, drift__enabled=False)
    cluster.deploy(sharded)
    shards = [replica for replica in cluster.replicas() if replica.deployment.startswith("CandidateGenerator")]
    assert [shard.deployment for shard in shards] == ["CandidateGenerator-1of2", "CandidateGenerator-2of2"]
    patient = {"deadline_ms": 10_000}
    calls = [("recommend", {"user_id": f"u{n}", **patient}) for n in range(0, 80, 10)]
    calls.append(("similar", {"item_id": "i8", **patient}))
    whole = await in_one_process(calls, config, artifact, in_process)
    for found, expected in zip(over_http(cluster, calls), whole, strict=True):
        assert found.get("degraded", []) == []
        assert [item["item_id"] for item in found["items"]] == [item["item_id"] for item in expected["items"]]
        assert len(found["items"]) == 10

    with Load(cluster.url) as load:
        wait_for("some answers", lambda: len(load.answers) >= 20)
        os.kill(shards[1].pid, signal.SIGKILL)
        wait_for("another replica", lambda: shards[1].replica_id not in {r.replica_id for r in cluster.replicas()})
        wait_for("both shards", lambda: len(cluster.replicas()) == 5, every_s=0.5)
        healed = time.time()
        wait_for(
            "whole answers again",
            lambda: [body for at, _, body in load.answers if at > healed and body.get("degraded") == []][10:],
        )
    load.assert_all_answered(at_least=50)
    assert load.degraded["candidates:1/2 shards"], load.degraded
