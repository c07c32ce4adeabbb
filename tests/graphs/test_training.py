"""Training and evaluation: the artifact is complete, repeatable, and judged by the right formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.artifact.reader import Artifact
from deployments.messages import Floats
from deployments.models.backends.parity_gate import find
from deployments.models.dcn_v2 import CrossLayer
from graphs.data.dataset import Interactions, load, temporal_split
from graphs.evaluation import baselines
from graphs.evaluation.report import COLUMNS, HeldOutUsers, evaluate, lead, markdown
from graphs.fit import item_to_item
from graphs.fit.ranker import history_rows
from graphs.training import train
from monitoring.drift.reference import Reference, from_table
from tests.support.small_dataset import small_args


def events(rows: list[tuple[int, int, float]], weight: float = 1.0) -> Interactions:
    user, item, time = zip(*rows, strict=True)
    return Interactions(
        np.array(user, np.int32),
        np.array(item, np.int32),
        np.array(time, np.float64),
        np.full(len(rows), weight, np.float32),
    )


def dense(table: item_to_item.Table, n_items: int) -> Floats:
    ids_NK, weights_NK = table
    full = np.zeros((n_items, n_items), np.float32)
    row, column = np.nonzero(ids_NK >= 0)
    full[row, ids_NK[row, column]] = weights_NK[row, column]
    return full


def test_the_artifact_holds_what_serving_and_drift_read(trained_artifact: Artifact) -> None:
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
        "user_features.safetensors",
        "user_tower.safetensors",
        "users.arrow",
    }
    compiled = find(trained_artifact, "compiled", "fp32")
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
    again = evaluate(trained_artifact, load(str(dataset_folder)), small_args("", "compiled").stages, compare=False)
    for column in COLUMNS:
        assert again["funnel"][column] == pytest.approx(trained_artifact.manifest.metrics["funnel"][column], abs=1e-6)


def test_on_data_with_an_order_to_learn_the_funnel_beats_every_baseline(trained_artifact: Artifact) -> None:
    best, ratio = lead(trained_artifact.manifest.metrics)
    assert ratio > 1.1, best
    assert trained_artifact.manifest.metrics["funnel"]["hit_rate@10"] > 0.8


def test_the_results_page_shows_every_method(trained_artifact: Artifact) -> None:
    page = markdown(trained_artifact.manifest.metrics, trained_artifact.model_version, "the command")
    for name in ("funnel", *baselines.METHODS, "source: two_tower"):
        assert f"| {name} |" in page


def test_metrics_follow_their_formulas() -> None:
    known = events([(0, 0, 1), (1, 0, 1), (1, 1, 2)])
    test = events([(0, 2, 9), (0, 3, 9), (1, 4, 9)])
    judge = HeldOutUsers(known, test, 6)
    answers = np.full((2, 100), -1, np.int32)
    answers[0, :3], answers[1, :2] = [5, 2, 3], [5, 0]
    metrics = judge(answers)
    ideal = 1 + 1 / np.log2(3)
    assert metrics["ndcg@10"] == pytest.approx(((1 / np.log2(3) + 1 / 2) / ideal + 0) / 2)
    assert metrics["hit_rate@10"] == 0.5
    assert metrics["recall@50"] == 0.5
    assert metrics["coverage@10"] == pytest.approx(4 / 6)
    novelty = {0: -np.log2(3 / 3), 2: -np.log2(1 / 3), 3: -np.log2(1 / 3), 5: -np.log2(1 / 3)}
    assert metrics["novelty@10"] == pytest.approx(np.mean([novelty[i] for i in (5, 2, 3, 5, 0)]))
    assert judge.top(np.arange(12.0).reshape(2, 6))[0, :5].tolist() == [5, 4, 3, 2, 1], "item 0 was seen"


def test_the_linear_table_is_ease_on_either_side() -> None:
    rng = np.random.default_rng(2)
    pairs = sorted({(int(u), int(i)) for u, i in rng.integers(0, 9, (40, 2))})
    few_users = events([(u, i, 0.0) for u, i in pairs])
    table = dense(item_to_item.linear(few_users, 9), 9)
    seen = np.zeros((9, 9))
    seen[tuple(zip(*pairs, strict=True))] = 1
    inverse = np.linalg.inv(seen.T @ seen + 400 * np.eye(9))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(table, expected, atol=1e-6)

    more_items = events([(u % 3, i, 0.0) for u, i in pairs])
    table = dense(item_to_item.linear(more_items, 9), 9)
    seen = np.zeros((3, 9))
    seen[[u % 3 for u, _ in pairs], [i for _, i in pairs]] = 0
    np.add.at(seen, ([u % 3 for u, _ in pairs], [i for _, i in pairs]), 1)
    inverse = np.linalg.inv(seen.T @ seen + 400 * np.eye(9))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(table, expected, atol=1e-6)


def test_sequence_tables_know_the_direction() -> None:
    walks = events([(u, i, float(i)) for u in range(30) for i in range(u % 5, u % 5 + 6)])
    for fit in (item_to_item.sequence_ridge, item_to_item.co_occurrence):
        table = dense(fit(walks, 11), 11)
        assert table[4, 5] > table[5, 4], fit.__name__


def test_the_popularity_baseline_is_a_count_of_weighted_successes() -> None:
    some = events([(0, 1, 0.0), (1, 1, 0.0), (1, 2, 0.0)], weight=0.8)
    scores = baselines.scores("popularity", some, 3, np.array([0, 1]))
    np.testing.assert_allclose(scores, [[0, 1.6, 0.8]] * 2, rtol=1e-6)


def test_a_cross_layer_is_equation_two_of_dcn_v2() -> None:
    layer = CrossLayer(4, 2)
    x0, x = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    weight = layer.up.weight @ layer.down.weight
    expected = x0 * (x @ weight.T + layer.up.bias) + x
    torch.testing.assert_close(layer(x0, x), expected)


def test_offline_histories_are_those_that_the_store_would_give(dataset_folder: Path) -> None:
    events_before, _ = temporal_split(load(str(dataset_folder)).interactions)
    batch = history_rows(events_before, [0, 5], [5, 9], np.zeros((2, 0), np.float32), "v")
    assert batch.item_BH[0].tolist() == events_before.item_E[:5].tolist()
    assert batch.item_BH[1].tolist() == [*events_before.item_E[5:9].tolist(), -1]
    assert batch.weight_BH[1, 4] == 0
