"""Profiles, candidates and scoring on a trained artifact: the stage contract, and each stage's own tests."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.artifact.reader import Artifact
from deployments.errors import ConfigError
from deployments.messages import (
    PAD,
    Batch,
    CandidateBatch,
    Filter,
    HistoryBatch,
    ProfileBatch,
    RequestBatch,
    ScoreBatch,
)
from deployments.pipeline.request import Query, request_batch
from deployments.stages.candidates import CandidateConfig, CandidateGenerator
from deployments.stages.contract import Stage
from deployments.stages.fallbacks import PopularItems, cold_profiles, retrieval_scores, score_order
from deployments.stages.profile import ProfileConfig, Profiles
from deployments.stages.ranking import Ranker, RankerConfig
from deployments.stages.scoring import Scorer, ScorerConfig
from tests.contracts.stage_contract import StageContract

LENGTHS = (0, 1, 5, 12, 30, 3, 60)


def histories(version: str, n: int, typed: bool = False) -> HistoryBatch:
    """Histories of different lengths; the first is empty. `typed`: events have types, items repeat, few are seen."""
    rng = np.random.default_rng(5)
    lengths = [LENGTHS[i % len(LENGTHS)] for i in range(n)]
    item_BH = np.full((n, max([1, *lengths])), PAD, np.int32)
    weight_BH = np.zeros(item_BH.shape, np.float32)
    time_BH = np.zeros(item_BH.shape, np.float64)
    for row, length in enumerate(lengths):
        item_BH[row, :length] = rng.integers(0, 40, length) if typed else rng.choice(240, length, replace=False)
        weight_BH[row, :length] = rng.choice([-0.5, 0.2, 0.4, 0.8, 1.0], length)
        time_BH[row, :length] = 1.6e9 + np.arange(length) * 60
    seen_BH = item_BH >= 0
    type_BY, age_BY = np.empty((n, 0), np.int16), np.empty((n, 0), np.float32)
    if typed:
        seen_BH = seen_BH & (item_BH % 5 == 0)
        type_BY = np.where(item_BH >= 0, rng.integers(-1, 3, item_BH.shape), PAD).astype(np.int16)
        age_BY = np.where(item_BH >= 0, rng.exponential(1e6, item_BH.shape), 0).astype(np.float32)
    features_BF = (np.arange(2 * n).reshape(n, 2) % 3).astype(np.float32)
    return HistoryBatch(version, item_BH, time_BH, weight_BH, seen_BH, type_BY, age_BY, features_BF)


def requests(version: str, n: int) -> RequestBatch:
    """Plain ones, excluded items, filters that nearly all and few items pass, and given items."""
    kinds = [
        Query("", 10, 0.0),
        Query("", 3, 0.0, excluded=np.arange(50, dtype=np.int32)),
        Query("", 10, 0.0, filter=Filter(one_of=(("genres", ("Classic",)),))),
        Query("", 100, 0.0, filter=Filter(between=(("year", (1990.0, np.inf)),))),
        Query("", 4, 0.0, given=np.array([3, 1, 200, 7], np.int32)),
        Query("", 40, 0.0, filter=Filter(one_of=(("genres", ("Classic",)),))),
    ]
    return request_batch([kinds[i % len(kinds)] for i in range(n)], version)


@pytest.fixture(scope="module")
def profiles(artifact: Artifact) -> Profiles:
    return Profiles(artifact, ProfileConfig())


@pytest.fixture(scope="module")
def generator(artifact: Artifact) -> CandidateGenerator:
    return CandidateGenerator(artifact, CandidateConfig(n_candidates=60))


@pytest.fixture(scope="module")
def scorer(artifact: Artifact) -> Scorer:
    return Scorer(artifact, ScorerConfig())


class TrainedStageContract(StageContract):
    """Matrix products round differently for different batch sizes."""

    tolerance = 1e-4

    @pytest.fixture(autouse=True)
    def _trained(self, artifact: Artifact, profiles: Profiles, generator: CandidateGenerator, scorer: Scorer) -> None:
        self.version = artifact.model_version
        self.profiles, self.generator, self.scorer = profiles, generator, scorer

    def profiled(self, n: int) -> tuple[RequestBatch, ProfileBatch]:
        return requests(self.version, n), self.profiles(histories(self.version, n))


class TestProfiles(TrainedStageContract):
    @pytest.fixture
    def stage(self) -> Stage:
        return self.profiles

    def batches(self, n: int) -> tuple[Batch, ...]:
        return (histories(self.version, n),)

    def test_only_users_without_events_are_cold_and_their_vector_is_zero(self) -> None:
        found = self.profiles(histories(self.version, 7))
        assert found.cold_B.tolist() == [True] + [False] * 6
        assert not found.user_vector_BD[0].any()
        assert found.user_vector_BD[1:].any(axis=1).all()


class TestCandidateGenerator(TrainedStageContract):
    @pytest.fixture
    def stage(self) -> Stage:
        return self.generator

    def batches(self, n: int) -> tuple[Batch, ...]:
        return self.profiled(n)

    def test_nothing_seen_excluded_or_outside_the_filter_is_proposed(self) -> None:
        asked, users = self.profiled(12)
        found = self.generator(asked, users)
        for row in range(12):
            items = found.item_ids_BK[row][found.mask_BK[row]]
            assert len(np.unique(items)) == len(items)
            if asked.chosen_by_caller()[row]:
                assert sorted(items.tolist()) == [1, 3, 7, 200]
                continue
            assert not set(items.tolist()) & set(users.item_BH[row].tolist())
            assert not set(items.tolist()) & set(asked.excluded_BX[row].tolist())
            if asked.filter_B[row] != PAD and asked.filters[asked.filter_B[row]].one_of:
                assert (items % 7 == 0).sum() == len(items) or set(items) <= self.classics()

    def classics(self) -> set[int]:
        mask_N = self.generator._retrieval.catalogue.mask(Filter(one_of=(("genres", ("Classic",)),)))
        return set(np.flatnonzero(mask_N).tolist())

    def test_n_items_come_back_whenever_the_catalogue_allows(self) -> None:
        asked, users = self.profiled(12)
        found = self.generator(asked, users)
        for row in np.flatnonzero(~asked.chosen_by_caller()):
            allowed = 240 - len(set(users.item_BH[row][users.item_BH[row] >= 0].tolist()))
            if asked.filter_B[row] != PAD:
                mask_N = self.generator._retrieval.catalogue.mask(asked.filters[asked.filter_B[row]])
                seen = users.item_BH[row][users.item_BH[row] >= 0]
                allowed = int(mask_N.sum() - mask_N[np.unique(seen)].sum())
            assert found.mask_BK[row].sum() >= min(int(asked.n_B[row]), allowed)

    def test_every_source_proposes_items_and_is_reported(self) -> None:
        asked = request_batch([Query("", 10, 0.0)] * 7, self.version)
        found = self.generator(asked, self.profiles(histories(self.version, 7)))
        used = {found.sources[s] for s in np.unique(found.source_BK[found.mask_BK])}
        assert used >= {"popular", "two_tower"}
        assert any(name.startswith("sequence") for name in used)
        assert {found.sources[s] for s in found.source_BK[0][found.mask_BK[0]]} == {"popular"}

    def test_of_a_catalogue_with_fewer_items_than_candidates_all_are_taken(
        self, artifact: Artifact, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "rayfunnel")
        asked = request_batch([Query("", 10, 0.0)] * 3, self.version)
        users = self.profiles(histories(self.version, 3))
        exact, more = (CandidateGenerator(artifact, CandidateConfig(n_candidates=count)) for count in (240, 900))
        np.testing.assert_array_equal(more(asked, users).item_ids_BK, exact(asked, users).item_ids_BK)
        assert [record.getMessage() for record in caplog.records] == [
            "n_candidates is 900; the catalogue has 240 items, so these are taken"
        ]

    def test_similar_leaves_out_the_item_itself(self) -> None:
        asked = request_batch([Query("", 7, 0.0, given=np.array([i], np.int32)) for i in (0, 4, 9)], self.version)
        found = self.generator.similar(asked)
        assert found.mask_BK.sum(axis=1).tolist() == [7, 7, 7]
        assert not (found.item_ids_BK == asked.given_BG).any()
        assert (np.diff(found.retrieval_scores_BK, axis=1) <= 0).all()


class TestScorer(TrainedStageContract):
    @pytest.fixture
    def stage(self) -> Stage:
        return self.scorer

    def batches(self, n: int) -> tuple[Batch, ...]:
        asked, users = self.profiled(n)
        return users, self.generator(asked, users)

    def test_padding_scores_minus_infinity_and_nothing_else_does(self) -> None:
        users, found = self.batches(7)
        assert isinstance(found, CandidateBatch)
        scores = self.scorer(users, found)  # type: ignore[arg-type]
        assert (np.isneginf(scores.scores_BK) == ~found.mask_BK).all()

    def test_a_gpu_that_is_not_there_is_refused_with_the_remedy(self, artifact: Artifact) -> None:
        with pytest.raises(ConfigError, match="this replica sees no GPU; give it num_gpus, or set auto"):
            Scorer(artifact, ScorerConfig(device="cuda"))


class ScoredHistories:
    """The first three stages as one."""

    def __init__(self, artifact: Artifact) -> None:
        self.model_version = artifact.model_version
        self.profiles = Profiles(artifact, ProfileConfig())
        self.generator = CandidateGenerator(artifact, CandidateConfig(n_candidates=60))
        self.scorer = Scorer(artifact, ScorerConfig())

    def __call__(self, histories: HistoryBatch, requests: RequestBatch) -> ScoreBatch:
        users = self.profiles(histories)
        return self.scorer(users, self.generator(requests, users))


class TestScoresOfOwnItems(StageContract):
    tolerance = 1e-4

    @pytest.fixture(autouse=True)
    def _versioned(self, shop_artifact: Artifact) -> None:
        self.version = shop_artifact.model_version

    @pytest.fixture
    def stage(self, shop_artifact: Artifact) -> Stage:
        return ScoredHistories(shop_artifact)

    def batches(self, n: int) -> tuple[Batch, ...]:
        return histories(self.version, n, typed=True), requests(self.version, n)


def test_the_fallbacks_keep_the_contract_of_the_stages_that_they_replace(
    artifact: Artifact, profiles: Profiles, generator: CandidateGenerator
) -> None:
    version = artifact.model_version
    asked = requests(version, 12)
    cold = cold_profiles(asked, artifact.manifest.settings["dimension"], 2)
    empty = histories(version, 12).take(np.zeros(12, np.intp))
    real = profiles(empty)
    assert (cold.cold_B == real.cold_B).all()
    assert (cold.user_vector_BD == real.user_vector_BD).all()

    popular = PopularItems(artifact, 60)(asked, cold)
    proposed = generator(asked, real)
    assert popular.sources == proposed.sources
    for row in range(12):
        wanted = min(int(asked.n_B[row]), int(proposed.mask_BK[row].sum()))
        ours, theirs = (b.item_ids_BK[row][b.mask_BK[row]][:wanted].tolist() for b in (popular, proposed))
        assert set(ours) == set(theirs)

    scores = retrieval_scores(proposed)
    plain = Ranker(artifact, RankerConfig(diversity=0.0))(asked, proposed, scores)
    fallback = score_order(asked, proposed, scores)
    width = fallback.choice_BN.shape[1]
    assert (plain.choice_BN[:, width:] == PAD).all()
    assert (fallback.choice_BN == plain.choice_BN[:, :width]).all()
    np.testing.assert_array_equal(fallback.score_BN, plain.score_BN[:, :width])
