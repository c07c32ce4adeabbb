"""A configuration that can't work stops the deployment with one sentence, and touches nothing that runs."""

from __future__ import annotations

import copy
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import ConfigError
from graphs import store
from graphs.recommendation import build
from tests.support.ray_cluster import Cluster, Config, application, free_port, wait_for


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
        ({"candidates__config__n_candidates": 241}, r"n_candidates.*241.*240"),
        ({"scoring__num_gpus": 1.5}, r"args\.stages\.scoring\.num_gpus = 1\.5: .*must be a fraction in \(0, 1\]"),
        ({"scoring__replicas": -1}, r"args\.stages\.scoring\.replicas = -1: .*greater than or equal to 1"),
        ({"ranking__config__diversty": 0.1}, r"args\.stages\.ranking\.config\.diversty is not a known key; remove it"),
        ({"ranking__config__category": "mood"}, r"mood"),
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


def test_serve_status_shows_the_sentence_and_what_runs_stays_as_it_is(served: Cluster, config: Config) -> None:
    before = served.replicas()
    bad = copy.deepcopy(config)
    address = f"redis://127.0.0.1:{free_port()}/0"
    for name, changes in {"misspelt": {"piepline": {}}, "no-store": {"store": {"redis_url": address}}}.items():
        broken = copy.deepcopy(application(config, "recommender")) | {"name": name, "route_prefix": f"/{name}"}
        broken["args"] |= changes
        bad["applications"].append(broken)
    served.submit(bad)

    def failed() -> list[str]:
        shown = served.applications()
        return [shown[name]["message"] for name in ("misspelt", "no-store") if shown[name]["status"] == "DEPLOY_FAILED"]

    messages = wait_for("both failed", lambda: found if len(found := failed()) == 2 else None)
    misspelt, no_store = messages
    assert misspelt.endswith("args.piepline is not a known key; remove it or mend its spelling")
    assert f"store.redis_url: the store at {address} " in no_store
    assert no_store.endswith("; start it, or mend the address")
    assert [message.count("\n") for message in messages] == [1, 1], "one line of Serve's, one of ours"
    assert len(served.recommend("u1")["items"]) == 10
    assert served.replicas() == before
    served.deploy(config)
    assert served.replicas() == before
