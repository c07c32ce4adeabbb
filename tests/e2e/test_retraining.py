"""A model that is trained again while the application serves: nothing breaks, and the next deploy takes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deployments.artifact.reader import Artifact
from tests.support.load import Load
from tests.support.paths import ROOT
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config, changed
from tests.support.small_artifact import write_artifact

TIMEOUT_S = 600
pytestmark = pytest.mark.timeout(TIMEOUT_S)


@pytest.fixture
def out(tmp_path: Path, dataset_folder: Path) -> Path:
    """The folder that is trained into, with its first model."""
    write_artifact(tmp_path / "model", dataset_folder, seed=1)
    return tmp_path / "model"


@pytest.fixture
def config_file(config: Config, out: Path, tmp_path: Path) -> Path:
    """The config of the cluster, over the model in `out`."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(changed(config, artifact=str(out), stages__scoring__config__backend="eager")))
    return path


@pytest.fixture
def load(cluster: Cluster, config_file: Path) -> Iterator[Load]:
    """Light traffic on the application of `config_file`; every request must be answered."""
    deploy(cluster, config_file)
    with Load(cluster.url, rate=10, longest_s=TIMEOUT_S) as load:
        wait_for("some answers", lambda: len(load.answers) >= 20)
        yield load
    load.assert_all_answered(at_least=60)


def deploy(cluster: Cluster, config_file: Path) -> str:
    """`rayfunnel deploy`, until the applications run; what it printed."""
    command = [sys.executable, "-m", "graphs", "deploy", str(config_file), "--address", cluster.dashboard]
    done = subprocess.run(command, cwd=ROOT, env=cluster.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cluster.wait_until_running({"store", "recommender"})
    return done.stdout


def answering(load: Load, version: str) -> bool:
    """Whether the latest answers, and several, are whole and of this model alone."""
    recent = [body for at, _, body in load.answers if at > time.time() - 3]
    return len(recent) > 10 and all(a.get("model_version") == version and a.get("degraded") == [] for a in recent)


def test_a_model_trained_again_in_place_is_taken_by_the_next_deploy_and_disturbs_nothing_before(
    cluster: Cluster, out: Path, config_file: Path, load: Load, dataset_folder: Path
) -> None:
    first = Artifact.open(str(out)).model_version
    served = out.resolve()
    wait_for("answers of the first model", lambda: answering(load, first))

    for seed in (2, 3, 4, 5):
        latest = write_artifact(out, dataset_folder, seed)
    assert served.is_dir(), "four trainings later the folder that is served is there"
    scorer = next(replica for replica in cluster.replicas() if replica.deployment == "Scorer")
    os.kill(scorer.pid, signal.SIGKILL)
    wait_for("another Scorer", lambda: scorer.replica_id not in {each.replica_id for each in cluster.replicas()})
    wait_for(
        "whole answers of the first model, by a Scorer that started after the trainings", lambda: answering(load, first)
    )

    printed = deploy(cluster, config_file)
    assert f"deployed recommender: model {latest.model_version} of {latest.folder}" in printed
    wait_for("answers of the new model", lambda: answering(load, latest.model_version))
    replicas = cluster.replicas()
    deploy(cluster, config_file)
    assert cluster.replicas() == replicas, "nothing has changed, so nothing is rebuilt"

    def train_again() -> Artifact | None:
        model = write_artifact(out, dataset_folder, seed=6)
        return None if served.exists() else model

    last = wait_for("the first model's folder to go, once its last replica has stopped", train_again, every_s=1)
    deploy(cluster, config_file)
    wait_for("answers of the last model", lambda: answering(load, last.model_version))


def test_plain_serve_deploy_takes_a_changed_artifact_and_no_retrained_one(
    cluster: Cluster, config_file: Path, load: Load, out: Path, tmp_path: Path, dataset_folder: Path
) -> None:
    config = yaml.safe_load(config_file.read_text())
    cluster.deploy(config)  # as it is in the file, without a version
    first = Artifact.open(str(out)).model_version
    wait_for("answers of the first model", lambda: answering(load, first))
    replicas = cluster.replicas()

    retrained = write_artifact(out, dataset_folder, seed=2)
    cluster.submit(config)
    cluster.wait_until_running({"store", "recommender"})
    assert cluster.replicas() == replicas, "the file is as it was: the new model is not seen"

    elsewhere = write_artifact(tmp_path / "elsewhere", dataset_folder, seed=3)
    cluster.deploy(changed(config, artifact=str(tmp_path / "elsewhere")))
    wait_for("answers of the other model", lambda: answering(load, elsewhere.model_version))
    assert retrained.model_version not in {body.get("model_version") for _, _, body in load.answers}


def test_another_version_than_the_config_names_is_refused_in_a_sentence(cluster: Cluster, config_file: Path) -> None:
    config = changed(yaml.safe_load(config_file.read_text()), model_version="0" * 16)
    cluster.submit(config)

    def refusal() -> str:
        app = cluster.applications()["recommender"]
        return str(app["message"]) if app["status"] == "DEPLOY_FAILED" else ""

    wait_for("the refusal", lambda: "but args.model_version is 0000000000000000" in refusal())
