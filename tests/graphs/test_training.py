"""Training: the artifact is complete and repeatable, and its manifest has the metrics of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.artifact.reader import Artifact
from deployments.models.backends.parity_gate import find_gate
from graphs.data.dataset import load_dataset
from graphs.evaluation import baselines
from graphs.evaluation.evaluate import evaluate
from graphs.evaluation.ranking_quality import COLUMNS
from graphs.evaluation.report import best_baseline, markdown
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


def test_the_metrics_in_the_manifest_are_those_of_the_files_beside_them(
    trained_artifact: Artifact, dataset_folder: Path
) -> None:
    again = evaluate(
        trained_artifact, load_dataset(str(dataset_folder)), small_args("", "compiled").stages, compare=False
    )
    for column in COLUMNS:
        assert again["funnel"][column] == pytest.approx(trained_artifact.manifest.metrics["funnel"][column], abs=1e-6)


def test_on_data_with_an_order_to_learn_the_funnel_beats_every_baseline(trained_artifact: Artifact) -> None:
    best, ratio = best_baseline(trained_artifact.manifest.metrics)
    assert ratio > 1.1, best
    assert trained_artifact.manifest.metrics["funnel"]["hit_rate@10"] > 0.8


def test_the_section_of_the_results_shows_every_method(trained_artifact: Artifact) -> None:
    page = markdown(trained_artifact.manifest.metrics, trained_artifact.model_version, "the command")
    for name in ("funnel", *baselines.METHODS, "source: two_tower"):
        assert f"| {name} |" in page
