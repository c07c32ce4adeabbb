"""The ranking features against their definition in plain NumPy, and the scores computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.artifact.reader import Artifact
from deployments.artifact.sources import SOURCE_HISTORY_LENGTH
from deployments.messages import PAD, Array, CandidateBatch, ProfileBatch
from deployments.models.dcn_v2 import CLIP
from deployments.models.features import history_weights
from deployments.models.features.ranker_inputs import SUMMARY_DECAYS, own_event_names
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
    found["item:log_events"] = tensors["log_events_N"][item] / 3 - 1
    types = schema.event_types
    return found if types is None else found | own_events(types, profiles, b, item)


def own_events(types: Sequence[str], profiles: ProfileBatch, b: int, item: int) -> dict[str, float]:
    """The features of the events on `item`, from all events with their ages."""
    length = int((profiles.item_BH[b] >= 0).sum())
    columns = (profiles.item_BH, profiles.weight_BH, profiles.type_BY, profiles.age_BY)
    events = [tuple(column[b, length - 1 - age] for column in columns) for age in range(min(length, 150))]
    own = [(age, *event[1:]) for age, event in enumerate(events) if event[0] == item]
    last_age, last_weight, _, last_s = own[0] if own else (np.inf, 0.0, 0, np.inf)
    found = {f"own:recency:{name}": float(np.exp(-last_age / decay)) for name, decay in SUMMARY_DECAYS.items()}
    found["own:count"] = np.log1p(len(own))
    found["own:strongest"] = max((event[1] for event in own), default=0.0)
    found["own:last"] = last_weight
    found["own:hours"] = max(1 - np.log1p(last_s / 3600) / np.log1p(90 * 24), 0.0)
    total = sum(np.exp(-age / 30) for age in range(len(events)))
    for t, name in enumerate(types):
        found[f"own:type:{name}"] = np.log1p(sum(np.exp(-age / 30) for age, _, kind, _ in own if kind == t))
        of_type = sum(np.exp(-age / 30) for age, event in enumerate(events) if event[2] == t)
        found[f"user_share:{name}"] = of_type / max(total, 1e-6)
    return found


def assert_defined(artifact: Artifact, profiles: ProfileBatch, candidates: CandidateBatch) -> None:
    features = RankingFeatures(artifact)
    found_BKF = features(profiles, candidates)
    for b in range(N):
        for k in np.flatnonzero(candidates.mask_BK[b])[::7]:
            expected = defined(artifact, profiles, candidates, b, int(k))
            assert expected.keys() == set(features.names)
            np.testing.assert_allclose(found_BKF[b, k], [expected[name] for name in features.names], atol=2e-6)


def test_every_feature_is_as_defined(artifact: Artifact, inputs: tuple[ProfileBatch, CandidateBatch]) -> None:
    assert_defined(artifact, *inputs)


def test_the_events_on_a_candidate_are_features_where_answers_may_contain_own_items(shop_artifact: Artifact) -> None:
    profiles = Profiles(shop_artifact, ProfileConfig())(histories(shop_artifact.model_version, N, typed=True))
    generator = CandidateGenerator(shop_artifact, CandidateConfig(n_candidates=60))
    candidates = generator(requests(shop_artifact.model_version, N), profiles)
    assert np.isin(candidates.item_ids_BK[6], profiles.item_BH[6]).sum() > 20
    assert Schema.load(shop_artifact).event_types == ("view", "cart", "purchase")
    assert_defined(shop_artifact, profiles, candidates)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_own_event_features_are_as_defined_for_any_history(shop_artifact: Artifact, data: st.DataObject) -> None:
    rows, length, width = 2, data.draw(st.sampled_from([1, 2, 7, 160, 400])), 9
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    few = data.draw(st.sampled_from([1, 3, 200]))
    item_BH = rng.integers(0, few, (rows, length)) * 512 % 240
    profiles = replace(
        Profiles(shop_artifact, ProfileConfig())(histories(shop_artifact.model_version, rows, typed=True)),
        item_BH=np.where(np.arange(length) < rng.integers(0, length + 1, (rows, 1)), item_BH, PAD).astype(np.int32),
        weight_BH=rng.choice([-0.5, 0.4, 0.8, 1.0], (rows, length)).astype(np.float32),
        seen_BH=np.zeros((rows, length), np.bool_),
        type_BY=rng.integers(-1, 3, (rows, length)).astype(np.int16),
        age_BY=rng.choice([-60, 0, 3600, 1e6, 1e9], (rows, length)).astype(np.float32),
    )
    item_BK = (rng.integers(0, few + 1, (rows, width)) * 512 % 240).astype(np.int32)
    mask_BK = rng.random((rows, width)) < 0.8
    n_sources = len(shop_artifact.manifest.settings["sources"])
    candidates = CandidateBatch(
        shop_artifact.model_version,
        item_BK,
        np.zeros((rows, width), np.float32),
        np.zeros((rows, width), np.int8),
        np.zeros((rows, width, n_sources), np.float32),
        mask_BK,
        (),
    )
    features = RankingFeatures(shop_artifact)
    names = own_event_names(["view", "cart", "purchase"])
    rows_RX = features.rows(profiles, candidates)[:, -len(names) :]
    present = replace(profiles, age_BY=np.maximum(profiles.age_BY, 0))
    expected = [
        [own_events(["view", "cart", "purchase"], present, b, item)[name] for name in names]
        for b in range(rows)
        for item in item_BK[b][mask_BK[b]].tolist()
    ]
    np.testing.assert_allclose(rows_RX, np.array(expected).reshape(-1, len(names)), atol=2e-5)


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
