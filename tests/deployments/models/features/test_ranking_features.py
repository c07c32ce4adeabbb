"""The ranking features against their definition in plain NumPy, and the scores computed from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deployments.artifact.reader import Artifact
from deployments.artifact.sources import SOURCE_HISTORY_LENGTH
from deployments.messages import Array, CandidateBatch, ProfileBatch
from deployments.models.dcn_v2 import CLIP
from deployments.models.features import history_weights
from deployments.models.features.ranker_inputs import SUMMARY_DECAYS
from deployments.models.features.ranking_features import RankingFeatures
from deployments.models.features.schema import Schema
from deployments.stages.candidates import CandidateConfig, CandidateGenerator
from deployments.stages.profile import ProfileConfig, Profiles
from deployments.stages.scoring import Scorer, ScorerConfig, load_ranker, standardisation
from tests.deployments.stages.test_model_stages import histories, requests

N = 12


@pytest.fixture(scope="module")
def inputs(artifact: Artifact) -> tuple[ProfileBatch, CandidateBatch]:
    profiles = Profiles(artifact, ProfileConfig())(histories(artifact.model_version, N))
    generator = CandidateGenerator(artifact, CandidateConfig(n_candidates=60))
    return profiles, generator(requests(artifact.model_version, N), profiles)


def defined(artifact: Artifact, profiles: ProfileBatch, candidates: CandidateBatch, b: int, k: int) -> dict[str, float]:
    """The features of one candidate, one by one."""
    tensors = artifact.tensors("item_features.safetensors")
    content_NC, attributes_NA = tensors["content_NC"].astype(float), tensors["attributes_NA"].astype(float)
    schema = Schema.load(artifact)
    item = int(candidates.item_ids_BK[b, k])
    past = profiles.item_BH[b][profiles.item_BH[b] >= 0][::-1][:SOURCE_HISTORY_LENGTH]
    success = (
        profiles.weight_BH[b][: (profiles.item_BH[b] >= 0).sum()][::-1][:SOURCE_HISTORY_LENGTH]
        >= history_weights.SUCCESS_THRESHOLD
    )
    found = dict(
        zip(
            (f"score:{s.name}" for s in schema.of_source("source_score")),
            candidates.source_scores_BKS[b, k],
            strict=True,
        )
    )
    for name, decay in SUMMARY_DECAYS.items():
        weight = np.exp(-np.arange(len(past)) / decay)

        def mean(values: Array, chosen: Array, weight: Array = weight) -> tuple[Array, float]:
            mass = float(weight[chosen].sum())
            return (weight[chosen] @ values[past[chosen]]) / max(mass, 1e-6), mass

        (liked, liked_mass), (other, other_mass) = mean(content_NC, success), mean(content_NC, ~success)
        every, mass = mean(attributes_NA, np.ones_like(success))
        contrast = (liked * liked_mass - other * other_mass) / (liked_mass + other_mass + 1)
        spread = np.sqrt(max(content_NC[item].sum(), 1))
        found[f"content_liked:{name}"] = content_NC[item] @ liked / spread
        found[f"content_contrast:{name}"] = content_NC[item] @ contrast / spread
        for a, attribute in enumerate(schema.item_attributes):
            found[f"difference:{attribute}:{name}"] = attributes_NA[item, a] - every[a]
            if a < len(schema.item_attributes) - 2:
                found[f"distance:{attribute}:{name}"] = abs(attributes_NA[item, a] - every[a])
            found[f"user_mean:{attribute}:{name}"] = every[a]
        found[f"user_success:{name}"] = liked_mass / max(mass, 1e-6)
    found["user_events"] = np.log1p((profiles.item_BH[b] >= 0).sum()) / 3 - 1.2
    found |= {f"user:{u}": profiles.features_BF[b, i] for i, u in enumerate(schema.user_features)}
    found |= {f"item:{a}": attributes_NA[item, i] for i, a in enumerate(schema.item_attributes)}
    return found | {"item:log_events": tensors["log_events_N"][item] / 3 - 1}


def test_every_feature_is_as_defined(artifact: Artifact, inputs: tuple[ProfileBatch, CandidateBatch]) -> None:
    features = RankingFeatures(artifact)
    found_BKF = features(*inputs)
    for b in range(N):
        for k in np.flatnonzero(inputs[1].mask_BK[b])[::7]:
            expected = defined(artifact, *inputs, b, int(k))
            assert expected.keys() == set(features.names)
            np.testing.assert_allclose(found_BKF[b, k], [expected[name] for name in features.names], atol=2e-6)


def test_serving_standardises_the_features_that_training_saw(
    artifact: Artifact, inputs: tuple[ProfileBatch, CandidateBatch]
) -> None:
    model = load_ranker(artifact)
    plain_RF = RankingFeatures(artifact)(*inputs)[inputs[1].mask_BK]
    expected_RF = np.clip((plain_RF - model.mean_F.numpy()) * model.scale_F.numpy(), -CLIP, CLIP)
    rows_RF = RankingFeatures(artifact, standardisation(model)).rows(*inputs)
    assert (np.abs(expected_RF) == CLIP).any()
    np.testing.assert_allclose(rows_RF, expected_RF, atol=1e-5)


def test_precomputed_terms_leave_the_scores_as_the_plain_model_gives_them(
    artifact: Artifact, inputs: tuple[ProfileBatch, CandidateBatch]
) -> None:
    with torch.inference_mode():
        plain_BK = load_ranker(artifact)(torch.from_numpy(RankingFeatures(artifact)(*inputs))).numpy()
    scores_BK = Scorer(artifact, ScorerConfig())(*inputs).scores_BK
    mask_BK = inputs[1].mask_BK
    assert np.ptp(plain_BK[mask_BK]) > 1
    np.testing.assert_allclose(scores_BK[mask_BK], plain_BK[mask_BK], rtol=0, atol=1e-5)
