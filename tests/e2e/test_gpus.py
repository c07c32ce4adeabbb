"""Fractions of GPUs that exist in name only: Ray's placement and the autoscaling policy are real. Not run on a GPU.

One deployment for all of it: the configuration of single deployments is changed in place, as an operator would with
`deployments:` in the config file, which restarts no other.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.load import Load
from tests.support.paths import ROOT
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config, application, changed

pytestmark = pytest.mark.long

GPUS_OF = ROOT / "tests" / "support" / "gpus_of.py"
Devices = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def devices_of(cluster: Cluster) -> Iterator[Devices]:
    """Per running replica of a deployment: its GPUs, as the replica reports them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-I", str(GPUS_OF), cluster.address],
        env=environment | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None

        def ask(deployment: str) -> list[dict[str, Any]]:
            ids = [replica.replica_id for replica in cluster.replicas() if replica.deployment == deployment]
            program.stdin.write(json.dumps([deployment, *ids]) + "\n")  # type: ignore[union-attr]
            program.stdin.flush()  # type: ignore[union-attr]
            found: list[dict[str, Any]] = json.loads(program.stdout.readline())  # type: ignore[union-attr]
            return found

        yield ask
        program.stdin.close()
        program.wait(30)


def with_shares(config: Config, ranker: float, scorer: float, least: int, most: int) -> Config:
    """A copy with these shares of a GPU, and bounds of the Scorers as graphs/recommendation.py makes them.

    Serve restarts a deployment whose share changed, and no other, as long as the same ones have an autoscaling config.
    """
    config = copy.deepcopy(config)
    bounds = {"min_replicas": least, "initial_replicas": least, "max_replicas": most}
    own = {"metrics_interval_s": 0.5, "look_back_period_s": 2, "upscale_delay_s": 0, "downscale_delay_s": 0}
    application(config, "recommender")["deployments"] = [
        {"name": "Ranker", "ray_actor_options": {"num_cpus": 0.1, "num_gpus": ranker}},
        {
            "name": "Scorer",
            "ray_actor_options": {"num_cpus": 0.1, "num_gpus": scorer},
            "autoscaling_config": bounds | own,
        },
    ]
    return config


def count(cluster: Cluster, deployment: str) -> int:
    return sum(replica.deployment == deployment for replica in cluster.replicas())


def starting(cluster: Cluster, deployment: str) -> int:
    replicas = cluster.applications()["recommender"]["deployments"][deployment]["replicas"]
    return sum(replica["state"] in ("STARTING", "PENDING_ALLOCATION") for replica in replicas)


def on_gpus(devices: list[dict[str, Any]]) -> Counter[str]:
    """Replicas by GPU; CUDA sees the one that Ray gave."""
    assert all(device["gpus"] == [device["visible"]] for device in devices), devices
    return Counter(device["gpus"][0] for device in devices)


def test_scorers_share_a_gpu_by_fractions_and_where_there_is_no_room_the_policy_stops_asking(
    cluster: Cluster, config: Config, devices_of: Devices
) -> None:
    config = changed(
        config,
        stages__scoring__max_replicas=8,
        stages__candidates__placement="ingress",
        drift__enabled=False,
        cache__candidates_ttl_s=0,
    )
    # As in test_autoscaling.py: a load that two cores can make asks for more Scorers than there is room for.
    application(config, "recommender")["autoscaling_policy"]["policy_kwargs"] = {
        "slo_ms": 500,
        "spare": 0,
        "utilisation": 0.0002,
        "stable_s": 5,
        "panic_s": 5,
        "startup_s": 1,
        "pending_expiry_s": 2,
    }
    if cluster.applications():
        cluster.shut_down()  # else the Scorer that runs keeps its share until the new ones are there
    cluster.deploy(with_shares(config, 1, 0.25, 4, 8))  # one GPU is the Ranker's, one is left
    wait_for("four Scorers", lambda: count(cluster, "Scorer") == 4)
    four = devices_of("Scorer")
    assert [device["share"] for device in four] == [0.25] * 4
    (shared,) = on_gpus(four)
    (other,) = on_gpus(devices_of("Ranker"))
    assert {shared, other} == {"0", "1"}

    with Load(cluster.url, rate=40, clients=8, body={"deadline_ms": 10_000}) as load:
        wait_for("a fifth Scorer that pends", lambda: starting(cluster, "Scorer") > 0)
        wait_for("the policy gives up", lambda: "(no room in the cluster)" in cluster.controller_log())
        wait_for("nothing asked for any more", lambda: starting(cluster, "Scorer") == 0)
        assert count(cluster, "Scorer") == 4
    load.assert_all_answered(at_least=10)

    cluster.submit(with_shares(config, 0, 0.25, 5, 5))
    wait_for("five Scorers", lambda: count(cluster, "Scorer") == 5)
    assert on_gpus(devices_of("Scorer")) == {shared: 4, other: 1}

    cluster.submit(with_shares(config, 0, 0.25, 1, 1))
    wait_for("one Scorer", lambda: count(cluster, "Scorer") == 1)
    cluster.submit(with_shares(config, 0, 0.6, 3, 3))

    def large() -> list[dict[str, Any]]:  # the small one stays until all of them are there
        return [device for device in devices_of("Scorer") if device["share"] == 0.6]

    wait_for(
        "two large Scorers and one that pends",
        lambda: len(large()) == 2 and starting(cluster, "Scorer") == 1,
        every_s=0.5,
    )
    assert on_gpus(large()) == {"0": 1, "1": 1}, "0.6 and 0.6 never share"
    cluster.shut_down()  # the next deployment must not wait for the one that pends
