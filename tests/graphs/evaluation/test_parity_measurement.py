"""The parity measurement, and the held-out requests that it runs on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.artifact.reader import Artifact
from deployments.models.fused_dcn_v2 import FusedDCNv2
from graphs.data.dataset import load_dataset
from graphs.evaluation import parity_measurement
from graphs.evaluation.held_out import HeldOutRequests, hold_out
from tests.support.small_dataset import small_args


@pytest.fixture(scope="module")
def held_out(artifact: Artifact, dataset_folder: Path) -> HeldOutRequests:
    return hold_out(artifact, load_dataset(str(dataset_folder)), small_args("").stages)


def test_parity_is_measured_on_the_scores_of_the_model(
    artifact: Artifact, held_out: HeldOutRequests, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = parity_measurement.measure_parity(artifact, held_out, "eager", "fp32", "cpu")
    assert same.overlap > 0.999
    assert same.loss == pytest.approx(0, abs=1e-3)
    assert same.passed

    def noisy(artifact: Artifact, model: FusedDCNv2, *_: object) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda rows_RF: model(rows_RF) + 2 * torch.randn(len(rows_RF), generator=generator)

    generator = torch.Generator().manual_seed(1)
    monkeypatch.setattr(parity_measurement, "start", noisy)
    broken = parity_measurement.measure_parity(artifact, held_out, "eager", "fp32", "cpu")
    assert broken.overlap < 0.95
    assert broken.loss > 0.05
    assert not broken.passed


def test_the_history_of_a_held_out_request_has_none_of_its_relevant_items(held_out: HeldOutRequests) -> None:
    assert sum(len(batch.n_relevant_B) for batch in held_out.batches) > 100
    for profiles, candidates, relevant_BK, *_ in held_out.batches:
        for b, relevant_K in enumerate(relevant_BK):
            assert not np.isin(candidates.item_ids_BK[b][relevant_K], profiles.item_BH[b]).any()
    assert any(batch.relevant_BK.any() for batch in held_out.batches)
