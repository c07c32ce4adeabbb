"""The drift detector without the funnel: windows and samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from deployments.artifact.reader import Artifact
from monitoring.drift.detector import DriftDetector, DriftSample
from monitoring.drift.drift_config import DriftConfig
from monitoring.drift.histograms import Columns
from monitoring.drift.reference import Reference, from_table, to_table


def detector_of(artifact: Artifact, **config: Any) -> tuple[DriftDetector, Columns]:
    rows = from_table(artifact.table("reference.parquet"))
    built = DriftConfig.model_validate({"verdicts": {"min_rows": 40}} | config)
    return DriftDetector(Reference.of(rows), built, artifact.model_version, 240, now=0.0), rows


def sample(rows: Columns, version: str, first_user: int = 0) -> DriftSample:
    users = np.arange(first_user, first_user + len(rows), dtype=np.uint64)
    return DriftSample("r", version, rows, users, [])


def test_a_window_with_little_traffic_stays_open_until_it_has_enough(artifact: Artifact) -> None:
    detector, rows = detector_of(artifact, window_s=30)
    detector.add(sample(rows.take(np.arange(20)), artifact.model_version), 1.0)
    detector.tick(100.0)
    assert detector.windows == 0
    detector.add(sample(rows.take(np.arange(20, 70)), artifact.model_version, 20), 101.0)
    detector.tick(102.0)
    assert detector.windows == 1
    assert detector.report(103.0)["window"]["users"] == 70


def test_a_window_without_traffic_ends_as_insufficient_data(artifact: Artifact) -> None:
    detector, _ = detector_of(artifact, window_s=30, longest_window_s=60)
    assert detector.report(61.0)["verdict"] == "INSUFFICIENT_DATA"
    assert set(detector.verdicts().values()) == {"INSUFFICIENT_DATA"}


def test_a_user_counts_once_per_window_and_rows_of_another_model_not_at_all(artifact: Artifact) -> None:
    detector, rows = detector_of(artifact)
    for _ in range(3):
        detector.add(sample(rows, artifact.model_version), 1.0)
    assert detector.report(2.0)["open_window"]["users"] == len(rows)
    detector.add(sample(rows, "another", 1000), 3.0)
    report = detector.report(4.0)
    assert (report["open_window"]["users"], report["other_model"]) == (len(rows), len(rows))


def test_rows_are_read_back_from_their_table(artifact: Artifact) -> None:
    rows = from_table(artifact.table("reference.parquet"))
    again = from_table(to_table(replace(rows, weight_B=rows.weight_B * 2)))
    assert (again.weight_B == 2).all()
    for name, value in rows.numbers.items():
        np.testing.assert_array_equal(again.numbers[name], value)
    for name, labels in rows.labels.items():
        assert again.labels[name].names == labels.names
        np.testing.assert_array_equal(again.labels[name].share_BL, labels.share_BL)
