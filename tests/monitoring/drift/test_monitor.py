"""What the drift actor holds, without the funnel: windows, samples, and answers joined with their events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.artifact.reader import Artifact
from monitoring.drift.histograms import Columns
from monitoring.drift.monitor import DriftConfig, DriftMonitor, Sample
from monitoring.drift.online_quality import OnlineQuality, OnlineQualityConfig, followed, gini
from monitoring.drift.reference import Reference, from_table, to_table


def monitor(artifact: Artifact, **config: Any) -> tuple[DriftMonitor, Columns]:
    rows = from_table(artifact.table("reference.parquet"))
    built = DriftConfig.model_validate({"verdicts": {"min_rows": 40}} | config)
    return DriftMonitor(Reference.of(rows), built, artifact.model_version, 240, now=0.0), rows


def sample(rows: Columns, version: str, first_user: int = 0) -> Sample:
    users = np.arange(first_user, first_user + len(rows), dtype=np.uint64)
    return Sample("r", version, rows, users, [])


def test_a_window_with_little_traffic_stays_open_until_it_has_enough(artifact: Artifact) -> None:
    watched, rows = monitor(artifact, window_s=30)
    watched.add(sample(rows.take(np.arange(20)), artifact.model_version), 1.0)
    watched.tick(100.0)
    assert watched.windows == 0
    watched.add(sample(rows.take(np.arange(20, 70)), artifact.model_version, 20), 101.0)
    watched.tick(102.0)
    assert watched.windows == 1
    assert watched.report(103.0)["window"]["users"] == 70


def test_a_silent_window_ends_as_insufficient_data(artifact: Artifact) -> None:
    watched, _ = monitor(artifact, window_s=30, longest_window_s=60)
    assert watched.report(61.0)["verdict"] == "INSUFFICIENT_DATA"
    assert set(watched.verdicts().values()) == {"INSUFFICIENT_DATA"}


def test_a_user_counts_once_per_window_and_rows_of_another_model_not_at_all(artifact: Artifact) -> None:
    watched, rows = monitor(artifact)
    for _ in range(3):
        watched.add(sample(rows, artifact.model_version), 1.0)
    assert watched.report(2.0)["open_window"]["users"] == len(rows)
    watched.add(sample(rows, "another", 1000), 3.0)
    report = watched.report(4.0)
    assert (report["open_window"]["users"], report["other_model"]) == (len(rows), len(rows))


def test_rows_survive_their_table(artifact: Artifact) -> None:
    rows = from_table(artifact.table("reference.parquet"))
    again = from_table(to_table(replace(rows, weight_B=rows.weight_B * 2)))
    assert (again.weight_B == 2).all()
    for name, value in rows.numbers.items():
        np.testing.assert_array_equal(again.numbers[name], value)
    for name, labels in rows.labels.items():
        assert again.labels[name].names == labels.names
        np.testing.assert_array_equal(again.labels[name].share_BL, labels.share_BL)


def test_an_answer_counts_once_it_is_mature_and_events_after_that_do_not() -> None:
    exposure = OnlineQuality(OnlineQualityConfig(mature_s=10), 100)
    exposure.add([("r1", (1, 2), False), ("r2", (1, 2), False)], [], now=0)
    assert exposure.report(5)["ctr"] is None
    exposure.add([], [("r1", 1, 1.0)], now=9)
    exposure.add([], [("r2", 1, 1.0)], now=11)
    assert exposure.report(12)["ctr"] == 0.5


def test_gini_is_0_for_equal_and_near_1_for_one_item() -> None:
    assert gini(np.full(50, 3)) == pytest.approx(0)
    assert gini(np.array([0] * 99 + [7])) == pytest.approx(0.99)


def test_a_request_is_followed_everywhere_or_nowhere() -> None:
    ids = [f"request-{n}" for n in range(4000)]
    assert 0.2 < np.mean([followed(i, 0.25) for i in ids]) < 0.3
    assert [followed(i, 0.25) for i in ids] == [followed(i, 0.25) for i in ids]
    assert all(followed(i, 0.5) for i in ids if followed(i, 0.25))
