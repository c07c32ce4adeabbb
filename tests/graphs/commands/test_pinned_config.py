"""The config that is deployed names the version of the model, so that Serve sees a model that was trained again."""

from __future__ import annotations

import stat
from pathlib import Path

import fsspec
import pytest
import yaml

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import ArtifactError
from graphs.commands import pinned_config
from graphs.config_file import load
from tests.support.paths import ROOT
from tests.support.serve_config import Config, application, recommender_args


@pytest.fixture
def config() -> Config:
    found: Config = yaml.safe_load((ROOT / "serve_config.yaml").read_text("utf-8"))
    stages = recommender_args(found)["stages"]
    stages["candidates"]["config"]["n_candidates"] = 100
    stages["scoring"]["config"] = {"backend": "eager"}
    return found


def retrained(out: Path, artifact: Artifact, seed: int) -> Artifact:
    """`artifact` in `out`, as another training would leave it."""
    with ArtifactWriter(out) as writer:
        writer.copy_from(artifact)
        writer.settings = writer.settings | {"seed": seed}
    return Artifact.open(str(out))


def test_a_model_trained_again_into_the_same_folder_changes_the_args_and_nothing_else_does(
    config: Config, artifact: Artifact, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    first = retrained(out, artifact, seed=1)
    recommender_args(config)["artifact"] = str(out)
    pinned = pinned_config.pinned(config)
    assert recommender_args(pinned)["artifact"] == str(first.folder)
    assert recommender_args(pinned)["model_version"] == first.model_version
    assert pinned_config.models(pinned) == [f"recommender: model {first.model_version} of {first.folder}"]
    assert pinned_config.pinned(config) == pinned, "an unchanged model is no change"
    second = retrained(out, artifact, seed=2)
    again = pinned_config.pinned(config)
    assert recommender_args(again)["model_version"] == second.model_version != first.model_version
    assert recommender_args(again)["artifact"] == str(second.folder) != str(first.folder)
    recommender_args(again).update(
        {key: recommender_args(config).get(key, "") for key in ("artifact", "model_version")}
    )
    del recommender_args(again)["model_version"]
    assert again == config


def test_a_remote_artifact_keeps_its_address_and_gets_its_version(
    config: Config, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.put(f"{artifact.folder}/", "/pinned/model/", recursive=True)
    recommender_args(config)["artifact"] = "memory://pinned/model"
    args = recommender_args(pinned_config.pinned(config))
    assert (args["artifact"], args["model_version"]) == ("memory://pinned/model", artifact.model_version)


def test_a_version_that_the_config_names_itself_must_be_the_one_that_is_there(
    config: Config, artifact: Artifact
) -> None:
    recommender_args(config).update({"artifact": str(artifact.folder), "model_version": "0" * 16})
    with pytest.raises(ArtifactError, match=r"its model version is \w{16}, but args.model_version is 0{16}"):
        pinned_config.pinned(config)


def test_the_file_is_for_its_owner_alone_and_is_read_back_as_it_was(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "rendered.yaml"
    path.touch(0o644)
    pinned_config.write(config, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(str(path)) == config
    assert application(yaml.safe_load(path.read_text()), "store") == application(config, "store")
