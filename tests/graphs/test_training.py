"""Training: the artifact is complete and repeatable, and its manifest has the metrics of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deployments.artifact.reader import Artifact
from deployments.models.backends.parity_gate import find_gate
from graphs.data.dataset import load_dataset
from graphs.data.splits import Split
from graphs.evaluation import baselines
from graphs.evaluation.evaluate import evaluate
from graphs.evaluation.ranking_quality import COLUMNS
from graphs.evaluation.report import markdown
from graphs.evaluation.verdict import judge
from graphs.training import train
from monitoring.drift.reference import Reference, from_table
from tests.support.small_dataset import small_args


def test_the_artifact_holds_the_files_of_serving_and_drift(trained_artifact: Artifact) -> None:
    assert set(trained_artifact.manifest.files) == {
        "catalogue.arrow",
        "histories.parquet",
        "item_features.safetensors",
        "items.faiss",
        "items.safetensors",
        "neighbours.safetensors",
        "popularity.safetensors",
        "ranker.safetensors",
        "reference.parquet",
        "reference_basis.safetensors",
        "schema.json",
        "user_features.safetensors",
        "user_tower.safetensors",
        "users.arrow",
    }
    compiled = find_gate(trained_artifact, "compiled", "fp32")
    assert compiled is not None
    assert set(trained_artifact.manifest.derived) == {
        "recorded.safetensors",
        *(["scorer-compiled-fp32.pt2"] if not compiled.unavailable else []),
    }
    reference = Reference.of(from_table(trained_artifact.table("reference.parquet")))
    assert {"input.history_length", "embedding.distance", "score.best", "answer.source"} <= set(reference.cells.signals)
    assert (reference.histograms.counts_SM.sum(axis=1) > 0).all()
    assert "input.hours_since_last_event" not in reference.cells.signals, "the data is years old"


def test_the_same_seed_gives_the_same_model(trained_artifact: Artifact, dataset_folder: Path, tmp_path: Path) -> None:
    again = train(str(dataset_folder), str(tmp_path / "again"), small_args(""), seed=1)
    assert again.model_version == trained_artifact.model_version
    other = train(str(dataset_folder), str(tmp_path / "other"), small_args(""), seed=2)
    assert other.model_version != trained_artifact.model_version


@pytest.fixture(scope="module")
def twin(dataset_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same training without the refit."""
    return train(str(dataset_folder), str(tmp_path_factory.mktemp("twin") / "twin"), small_args(""), refit=False)


@pytest.mark.trained
def test_without_refit_the_metrics_in_the_manifest_are_those_of_the_files_beside_them(
    twin: Artifact, dataset_folder: Path
) -> None:
    again = evaluate(twin, load_dataset(str(dataset_folder)), small_args("").stages, compare=False)
    for column in COLUMNS:
        assert again["funnel"][column] == pytest.approx(twin.manifest.metrics["funnel"][column], abs=1e-6)
    assert twin.manifest.settings["refit"] is False
    assert twin.manifest.metrics["figures_of"] == ""


def test_what_is_served_is_fitted_on_all_events_and_has_the_figures_of_its_twin(
    trained_artifact: Artifact, twin: Artifact, dataset_folder: Path
) -> None:
    events = load_dataset(str(dataset_folder)).interactions
    served, manifest = trained_artifact, trained_artifact.manifest
    assert manifest.settings["refit"] is True
    assert manifest.settings["fitted_until"] == events.timestamp_E.max()
    assert twin.manifest.settings["fitted_until"] < events.timestamp_E.max()
    assert manifest.metrics["figures_of"].startswith("the unrefitted twin of the served model: the same settings")
    for column in COLUMNS:  # the twin runs the compiled code of the served model
        assert manifest.metrics["funnel"][column] == pytest.approx(twin.manifest.metrics["funnel"][column], abs=0.01)
    counted, of_twin = (a.tensors("item_features.safetensors")["log_events_N"] for a in (served, twin))
    np.testing.assert_allclose(counted, np.log1p(np.bincount(events.item_E)), rtol=1e-6)
    assert (of_twin <= counted).all()
    assert (of_twin < counted).any()
    ranker = "ranker.safetensors"
    assert manifest.files[ranker] == twin.manifest.files[ranker], "the ranking model is the twin's"
    assert manifest.files["neighbours.safetensors"] != twin.manifest.files["neighbours.safetensors"]


@pytest.mark.trained
def test_split_at_one_time_the_future_of_nobody_is_in_training(dataset_folder: Path, tmp_path: Path) -> None:
    artifact = train(str(dataset_folder), str(tmp_path / "x"), small_args(""), split="time", refit=False)
    split, events = Split.of(artifact.manifest.settings), load_dataset(str(dataset_folder)).interactions
    assert split.kind == "time"
    assert artifact.manifest.settings["fitted_until"] == events.timestamp_E[events.timestamp_E < split.at].max()
    assert artifact.manifest.metrics["split"] == str(split)
    assert artifact.manifest.metrics["test_users"] > 0


def test_on_data_with_an_order_to_learn_the_funnel_beats_every_baseline(trained_artifact: Artifact) -> None:
    verdict = judge(trained_artifact.manifest.metrics)
    assert verdict is not None
    assert verdict.ratio > 1.1, verdict
    assert trained_artifact.manifest.metrics["funnel"]["hit_rate@10"] > 0.8


def test_by_default_diversity_costs_no_accuracy(trained_artifact: Artifact) -> None:
    metrics, settings = trained_artifact.manifest.metrics, trained_artifact.manifest.settings
    assert metrics["funnel"]["ndcg@10"] >= metrics["funnel, no diversity"]["ndcg@10"]
    assert settings.get("diversity", 0.1) == (0.0 if metrics["funnel"] == metrics["funnel, no diversity"] else 0.1)


def test_the_section_of_the_results_shows_every_method(trained_artifact: Artifact) -> None:
    page = markdown(trained_artifact.manifest.metrics, trained_artifact.model_version, "the command")
    for name in ("funnel", *(set(baselines.METHODS) - {"recent"}), "source: two_tower"):
        assert f"| {name} |" in page
    assert "These are the figures of the unrefitted twin of the served model" in page
    assert "Judged: 80 users (100.0% of all)" in page
    assert "WARNING: fewer than 200 users are judged" in page
