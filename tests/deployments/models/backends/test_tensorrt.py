"""The TensorRT backend without a GPU: the engine's key and the check of its scores."""

from __future__ import annotations

import pytest
import torch

from deployments.artifact.reader import Artifact
from deployments.models.backends import tensorrt
from deployments.models.backends.unavailable import BackendUnavailable
from deployments.models.fused_dcn_v2 import FusedDCNv2
from deployments.stages.scoring import load_ranker


def test_an_engines_key_depends_on_everything_it_was_built_for() -> None:
    versions = {"torch": "2.13.0", "torch-tensorrt": "2.13.0", "tensorrt": "11.0"}
    keys = {
        tensorrt.engine_key("abc", "fp16", "sm_90-x86_64", versions),
        tensorrt.engine_key("abd", "fp16", "sm_90-x86_64", versions),
        tensorrt.engine_key("abc", "bf16", "sm_90-x86_64", versions),
        tensorrt.engine_key("abc", "fp16", "sm_80-x86_64", versions),
        *(tensorrt.engine_key("abc", "fp16", "sm_90-x86_64", versions | {name: "12"}) for name in versions),
    }
    assert len(keys) == 7
    assert tensorrt.engine_key("abc", "fp16", "sm_90-x86_64", versions) in keys
    assert all(key.startswith(("abc-", "abd-")) and "/" not in key for key in keys)
    assert tensorrt.installed_versions()["torch"] == torch.__version__


@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_an_engine_with_other_scores_than_the_plain_models_is_refused(artifact: Artifact, factor: float) -> None:
    plain = FusedDCNv2(load_ranker(artifact))
    n_features = plain.first.in_features
    tensorrt.check_scores(plain, plain, n_features, "cpu")
    with pytest.raises(BackendUnavailable, match="its scores differ from the plain model's by"):
        tensorrt.check_scores(lambda rows_RF: plain(rows_RF) * factor, plain, n_features, "cpu")
