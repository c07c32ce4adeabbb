"""Several nodes on this machine: a head without replicas, one with CPUs, one with a GPU that is lost.

The configuration is the one that `python -m graphs kuberay` makes. It takes a cluster beside the session's, whose head
has CPUs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.kubernetes.cluster_profile import Profile
from graphs.commands.kuberay import serve_config
from graphs.config import parse_args
from tests.support.external_redis import ExternalRedis
from tests.support.load import Load
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster, Node
from tests.support.serve_config import Config, application, changed

pytestmark = pytest.mark.long

FLAGS = {"RAY_health_check_period_ms": "1000"}
"""Ray declares a node dead after 5 failed checks; by default they come every 3 s."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    with Cluster(cpus=0, gpus=0, flags=FLAGS) as cluster:
        yield cluster


def rendered(cluster: Cluster, artifact: str, redis_url: str) -> Config:
    """The Serve config of a RayService, with two Scorers on half a GPU each, on this cluster's port."""
    scoring = {"replicas": 2, "min_replicas": 2, "max_replicas": 3, "num_gpus": 0.5}
    content = {
        "image": "none",
        "artifact": {"path": artifact},
        "histories": {"redis_url": redis_url},
        "gcs": {"redis_url": redis_url},
        "head": {"cpus": 1, "memory": "1Gi"},
        "workers": {
            "cpu": {"cpus": 4, "memory": "1Gi", "max": 1},
            "gpu": {"cpus": 2, "gpus": 1, "memory": "1Gi", "max": 1},
        },
        # A Scorer of the small model computes some 10,000 requests/s. The policy is told 5, so that a load which two
        # cores can make asks for three.
        "policy": {"spare": 0, "utilisation": 0.0005, "stable_s": 300, "startup_s": 5},
        "args": {"cache": {"candidates_ttl_s": 0}, "stages": {"scoring": scoring}},
    }
    config = serve_config(parse_args(Profile, content, "profile."), cluster.config(artifact))
    config["http_options"]["host"] = "127.0.0.1"
    config["proxy_location"] = "HeadOnly"  # the nodes share one machine, and its ports
    # The demo page shows the harness the histories; three nodes on two cores can keep the store waiting.
    return changed(config, http__demo=True, store__timeout_ms=1000)


def where(cluster: Cluster, **nodes: Node) -> dict[str, list[str]]:
    """Per node the deployments of its replicas."""
    pids = {name: node.pids() for name, node in nodes.items()}
    found: dict[str, list[str]] = {name: [] for name in ("elsewhere", *nodes)}
    for replica in cluster.replicas():
        name = next((name for name in nodes if replica.pid in pids[name]), "elsewhere")
        found[name].append(replica.deployment)
    return found


def titles(node: Node) -> str:
    """The command lines of its processes."""
    return "\n".join(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in node.pids())


@pytest.mark.timeout(600)
def test_stages_run_where_their_resources_are_and_a_lost_gpu_node_costs_no_answer(
    nodes: Cluster, artifact_path: str, external_redis: ExternalRedis
) -> None:
    cpu, gpu = nodes.add_node(cpus=4, group="cpu"), nodes.add_node(cpus=2, gpus=1, group="gpu")
    config = rendered(nodes, artifact_path, f"redis://127.0.0.1:{external_redis.port}/0")
    assert [app["name"] for app in config["applications"]] == ["recommender"]
    assert application(config, "recommender")["args"]["http"]["demo"]
    nodes.deploy(config)
    assert where(nodes, cpu=cpu, gpu=gpu) == {
        "elsewhere": [],
        "cpu": ["CandidateGenerator", "Ingress", "MetricsHub", "Ranker"],
        "gpu": ["Scorer", "Scorer"],
    }
    assert "DriftActor" in titles(cpu)

    with Load(nodes.url) as load:
        wait_for("a reason for a third Scorer", lambda: "autoscaling Scorer: 2 → 3" in nodes.controller_log())
        wait_for("some answers", lambda: len(load.answers) >= 40)
        assert where(nodes, gpu=gpu)["gpu"] == ["Scorer", "Scorer"], "its one GPU has room for two"
        gpu.kill()
        wait_for("answers without a Scorer", lambda: [b for _, _, b in load.answers if b.get("degraded")][5:])
        new = nodes.add_node(cpus=2, gpus=2, group="gpu")
        wait_for("three Scorers on the new node", lambda: where(nodes, new=new)["new"] == ["Scorer"] * 3, every_s=0.5)
        healed = time.time()
        wait_for("whole answers", lambda: [b for at, _, b in load.answers if at > healed and not b["degraded"]][20:])
    load.assert_all_answered(at_least=100)
    assert not any(body["degraded"] for _, _, body in load.answers[-10:])
    assert all(r.startswith("scoring:") or r.endswith((":deadline", ":late")) for r in load.degraded), load.degraded
