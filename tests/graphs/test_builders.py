"""The builders of both applications: what cannot work is refused in one sentence, before anything is deployed."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import ConfigError
from graphs import store
from graphs.recommendation import build
from tests.support.processes import free_port
from tests.support.serve_config import Config


def small(model: str, **changes: Any) -> Config:
    """Args of a recommender; `scoring__num_gpus=1.5` is in the stages."""
    stages: Config = {name: {"config": {}} for name in ("candidates", "scoring", "ranking")}
    stages["candidates"]["config"]["n_candidates"] = 100
    made: Config = {"artifact": model, "stages": stages}
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = stages if parents else made
        for parent in parents:
            node = node[parent]
        node[last] = value
    return made


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"artifact": "/nowhere/model"}, r"/nowhere/model"),
        ({"scoring__num_gpus": 1.5}, r"args\.stages\.scoring\.num_gpus = 1\.5: .*must be a fraction in \(0, 1\]"),
        ({"scoring__replicas": -1}, r"args\.stages\.scoring\.replicas = -1: .*greater than or equal to 1"),
        ({"ranking__config__diversty": 0.1}, r"args\.stages\.ranking\.config\.diversty is not a known key; remove it"),
        ({"ranking__config": {"category": "mood", "category_cap": 1}}, r"mood"),
        ({"piepline": {}}, r"args\.piepline is not a known key"),
        ({"scoring__placement": "anywhere"}, r"args\.stages\.scoring\.placement = 'anywhere'"),
        ({"store": {"redis_url": "redis://:secret@localhost/0"}}, r"RAYFUNNEL_REDIS_PASSWORD"),
        ({"store": {"redis_url": f"redis://127.0.0.1:{free_port()}/0"}}, r"store\.redis_url: .*start it, or mend"),
        ({"pipeline": {"finished_by": {"profile": 0.5}}}, r"finished_by: give profile, candidates, scoring, ranking"),
    ],
)
def test_what_cannot_work_is_said_in_one_sentence(artifact_path: str, changes: Config, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refused:
        build(small(artifact_path, **changes))
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_an_altered_artifact_is_refused_and_the_file_named(artifact_path: str, tmp_path: Path) -> None:
    altered = shutil.copytree(artifact_path, tmp_path / "altered")
    weights = altered / "ranker.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ConfigError, match=r"ranker\.safetensors"):
        build(small(str(altered)))


def test_a_wrong_key_or_value_of_the_store_is_said_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^[^\n]*args\.port = 0: [^\n]*; args\.prot is not a known key; [^\n]*$"):
        store.build({"prot": 6390, "port": 0})


def test_a_taken_port_of_the_store_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for folder in (tmp_path, tmp_path / "new"):
            with pytest.raises(
                ConfigError, match=rf"^args\.port: port {port} on 127\.0\.0\.1 is taken .*set a free one$"
            ):
                store.build({"port": port, "data_dir": str(folder)})


def deployments_of(application: Any) -> dict[str, Any]:
    """The deployments of an application by name."""
    found: dict[str, Any] = {}

    def visit(bound: Any) -> None:
        deployment = getattr(bound, "_bound_deployment", None)
        if deployment is None or deployment.name in found:
            return
        found[deployment.name] = deployment
        for part in (*deployment.init_args, *deployment.init_kwargs.values()):
            visit(part)

    visit(application)
    return found


def test_serve_bounds_the_requests_of_an_ingress_replica_above_our_own_limits(artifact_path: str) -> None:
    limits = {"similar": 3, "events": 5}
    batcher = {"max_queue": 7, "max_batch": 4, "in_flight": 2}
    found = deployments_of(build(small(artifact_path, limits=limits, batcher=batcher)))
    own = 3 + 5 + 7 + 4 * 2
    assert found["Ingress"].max_ongoing_requests == found["Ingress"].max_queued_requests == own + 64


def test_serve_bounds_the_calls_of_a_stage_replica(artifact_path: str) -> None:
    changes: dict[str, Any] = {"scoring__slots": 3, "ingress": {"replicas": 2}}
    found = deployments_of(build(small(artifact_path, **changes)))
    assert found["Scorer"].max_ongoing_requests == 2 * 3 * 2
