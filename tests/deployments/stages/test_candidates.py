"""The candidate stage against its definition, computed in plain NumPy over the whole catalogue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import faiss
import numpy as np
import pytest

from deployments.artifact.reader import Artifact
from deployments.artifact.sources import SOURCE_HISTORY_LENGTH
from deployments.artifact.writer import ArtifactWriter
from deployments.messages import (
    PAD,
    Array,
    CandidateBatch,
    Filter,
    HistoryBatch,
    ProfileBatch,
    RequestBatch,
    pad_columns,
)
from deployments.pipeline.request import Query, request_batch
from deployments.retrieval.retriever import LIST_DEPTH
from deployments.stages.candidates import CandidateConfig, CandidateGenerator
from deployments.stages.profile import ProfileConfig, Profiles

ITEMS = 240
FILTERS = (
    None,
    Filter(one_of=(("genres", ("Classic",)),)),
    Filter(between=(("year", (1990.0, np.inf)),)),
    Filter(one_of=(("genres", ("Classic",)),), between=(("year", (2018.0, 2018.0)),)),
)


UNIT = 1 / 64
"""Vectors are multiples of it: products and their sums are exact in float32, in whatever order a machine adds them."""


@pytest.fixture(scope="module", params=["artifact", "shop_artifact"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small ones with such vectors."""
    artifact: Artifact = request.getfixturevalue(request.param)
    out = tmp_path_factory.mktemp("candidates") / "small"
    with ArtifactWriter(str(out)) as writer:
        writer.copy_from(artifact)
        vectors_ND = exact(artifact.tensors("items.safetensors")["item_vectors_ND"])
        writer.tensors("items.safetensors", {"item_vectors_ND": vectors_ND})
        index = faiss.IndexFlatIP(faiss.read_index(str(artifact.path("items.faiss"))).d)
        index.add(pad_columns(vectors_ND, index.d))
        faiss.write_index(index, str(writer.file("items.faiss")))
    return Artifact.open(str(out))


def exact(array: Array) -> Array:
    return np.asarray(np.round(array / UNIT) * UNIT, np.float32)


def may_repeat(artifact: Artifact) -> bool:
    return "history" in [spec["kind"] for spec in artifact.manifest.settings["sources"]]


def batches(artifact: Artifact, seed: int, rows: int = 24) -> tuple[RequestBatch, ProfileBatch]:
    """Random histories (empty ones, ones with all items, repeated items) and requests of every kind."""
    rng = np.random.default_rng(seed)
    lengths = rng.choice([0, 1, 3, 20, 100, 300, ITEMS], rows)
    item_BH = np.full((rows, 300), PAD, np.int32)
    weight_BH = np.zeros(item_BH.shape, np.float32)
    for row, length in enumerate(lengths):
        events = rng.permutation(ITEMS) if length == ITEMS else rng.integers(0, ITEMS, length)
        item_BH[row, :length] = events
        weight_BH[row, :length] = rng.choice([-0.5, 0.2, 0.4, 0.8, 1.0], length)
    queries = []
    for _ in range(rows):
        query: dict[str, Any] = {"n": int(rng.choice([1, 10, 100])), "filter": FILTERS[rng.integers(0, len(FILTERS))]}
        if rng.random() < 0.3:
            query["excluded"] = rng.choice(ITEMS, 40, replace=False).astype(np.int32)
        if rng.random() < 0.2:
            query["given"] = rng.choice(ITEMS, rng.integers(1, 80), replace=False).astype(np.int32)
        queries.append(Query(user_id="", deadline=0.0, **query))
    profiles = Profiles(artifact, ProfileConfig())(
        HistoryBatch(
            artifact.model_version,
            item_BH,
            np.zeros(item_BH.shape),
            weight_BH,
            (item_BH >= 0) & (item_BH % 3 == 0) if may_repeat(artifact) else item_BH >= 0,
            np.empty((rows, 0), np.int16),
            np.empty((rows, 0), np.float32),
            rng.integers(0, 3, (rows, 2)).astype(np.float32),
        )
    )
    profiles = replace(profiles, user_vector_BD=exact(profiles.user_vector_BD))
    return request_batch(queries, artifact.model_version), profiles


class Definition:
    """The expected candidates of one request, with one array over all items per source.

    Sums are in float32 and in the order of the events, as another order would round differently.
    """

    def __init__(self, artifact: Artifact, n_candidates: int) -> None:
        self.specs = artifact.manifest.settings["sources"]
        self.tables = artifact.tensors("neighbours.safetensors")
        self.vectors_ND = artifact.tensors("items.safetensors")["item_vectors_ND"]
        self.popularity_N = artifact.tensors("popularity.safetensors")["score_N"]
        self.n_candidates = n_candidates

    def scores(self, spec: dict[str, Any], profile: ProfileBatch) -> Array:
        """The source's raw score of every item."""
        if spec["kind"] == "popularity":
            return np.asarray(self.popularity_N)
        if spec["kind"] == "vectors":
            return self.vectors_ND @ profile.user_vector_BD[0] * (not profile.cold_B[0])
        total_N = np.zeros(ITEMS, np.float32)
        fading_L = np.exp(-np.arange(SOURCE_HISTORY_LENGTH, dtype=np.float32) / np.float32(spec["decay"]))
        known = profile.item_BH[0] >= 0
        events = list(zip(profile.item_BH[0][known], profile.weight_BH[0][known], strict=True))[::-1][
            :SOURCE_HISTORY_LENGTH
        ]
        for age, (item, weight) in enumerate(events):
            evidence = np.float32(0 if weight <= 0 else 1 if weight >= 0.799 else 0.5) * fading_L[age]
            ids, weights = np.array([item]), np.ones(1, np.float32)
            if spec["kind"] == "neighbours":
                ids = self.tables[f"{spec['table']}_ids_NK"][item]
                weights = self.tables[f"{spec['table']}_weights_NK"][item]
            if evidence > 1e-4:
                np.add.at(total_N, ids[ids >= 0], evidence * weights[ids >= 0])
        return total_N

    def __call__(self, request: RequestBatch, profile: ProfileBatch, passes_N: Array) -> tuple[Array, Array, Array]:
        """Items, their sources and their scaled scores by source."""
        allowed_N = passes_N.copy()
        for items in (profile.seen_item_BH[0], request.excluded_BX[0]):
            allowed_N[items[items >= 0]] = False
        key_N = np.full(ITEMS, np.inf)
        popular = [spec["kind"] for spec in self.specs].index("popularity")
        source_N, columns = np.full(ITEMS, popular), []
        for s, spec in enumerate(self.specs):
            score_N = self.scores(spec, profile)
            listed = np.flatnonzero(allowed_N & ((score_N > 0) | (spec["kind"] in ("popularity", "vectors"))))
            if spec["kind"] == "vectors" and profile.cold_B[0]:
                listed = listed[:0]
            listed = listed[np.lexsort((listed, -score_N[listed].astype(np.float32)))][:LIST_DEPTH]
            for place, item in enumerate(listed[: spec["quota"]]):
                if (key := place * 100 / spec["quota"] + 0.001 * s) < key_N[item]:
                    key_N[item], source_N[item] = key, s
            if spec["kind"] == "neighbours":
                columns.append(score_N / max(score_N[listed[:10]].sum() / 10, 1e-6))
            elif spec["kind"] == "vectors":
                last, first = (score_N[listed[-1]], score_N[listed[0]]) if len(listed) else (0.0, 0.0)
                columns.append((score_N - last) / max(first - last, 1e-3))
            else:
                columns.append(score_N)
        n = min(int(request.n_B[0]), ITEMS)
        chosen = np.argsort(key_N, kind="stable")[: np.isfinite(key_N).sum()]
        if len(chosen) < n:
            rest = np.flatnonzero(allowed_N & np.isinf(key_N))
            chosen = np.concatenate([chosen, rest[np.lexsort((rest, -self.popularity_N[rest]))]])
        chosen = chosen[: max(self.n_candidates, n)]
        given = request.given_BG[0][request.given_BG[0] >= 0]
        chosen = given if len(given) else chosen
        return chosen, source_N[chosen], np.stack(columns, axis=1)[chosen]


def check(artifact: Artifact, stage: CandidateGenerator, n_candidates: int, seed: int) -> CandidateBatch:
    """Compares every row of a random batch."""
    requests, profiles = batches(artifact, seed)
    found = stage(requests, profiles)
    define = Definition(artifact, n_candidates)
    for row in range(len(requests)):
        one = slice(row, row + 1)
        f = requests.filter_B[row]
        passes_N = stage._retrieval.catalogue.mask(requests.filters[f]) if f >= 0 else np.ones(ITEMS, np.bool_)
        items, sources, scores_KS = define(requests.take(one), profiles.take(one), passes_N)
        got = found.mask_BK[row]
        assert found.item_ids_BK[row][got].tolist() == items.tolist(), (seed, row)
        assert found.source_BK[row][got].tolist() == sources.tolist()
        np.testing.assert_allclose(found.source_scores_BKS[row][got], scores_KS, rtol=1e-3, atol=2e-3)
        expected = np.maximum(found.source_scores_BKS[row][got], 0).mean(axis=1)
        np.testing.assert_allclose(found.retrieval_scores_BK[row][got], expected, rtol=1e-5)
    assert (found.item_ids_BK[~found.mask_BK] == PAD).all()
    assert (found.source_BK[~found.mask_BK] == PAD).all()
    assert not found.source_scores_BKS[~found.mask_BK].any()
    return found


@pytest.mark.parametrize("n_candidates", [30, 100])
def test_the_stage_gives_the_candidates_of_its_definition(artifact: Artifact, n_candidates: int) -> None:
    stage = CandidateGenerator(artifact, CandidateConfig(n_candidates=n_candidates))
    filled = [check(artifact, stage, n_candidates, seed).mask_BK.sum() for seed in range(8)]
    assert sum(filled) > 8 * 24 * 15, "most requests have candidates"


def test_scratch_memory_is_clean_after_every_call(artifact: Artifact) -> None:
    stage = CandidateGenerator(artifact, CandidateConfig(n_candidates=100))
    requests, profiles = batches(artifact, 1)
    first = stage(requests, profiles)
    for _ in range(3):
        again = stage(requests, profiles)
        assert (again.item_ids_BK == first.item_ids_BK).all()
        assert (again.source_scores_BKS == first.source_scores_BKS).all()
    assert not stage._retrieval.workspace().score_NV.any()


def test_an_index_that_is_searched_gives_what_comparing_all_gives(artifact: Artifact) -> None:
    """Over a graph index the search is not exact; over a flat one behind the same interface it is."""
    stage = CandidateGenerator(artifact, CandidateConfig(n_candidates=100))
    requests, profiles = batches(artifact, 5)
    exact = stage(requests, profiles)
    assert stage._retrieval.vectors.exact
    assert isinstance(stage._retrieval.vectors._index, faiss.IndexFlat)
    stage._retrieval.vectors.exact = False
    searched = stage(requests, profiles)
    assert (searched.item_ids_BK == exact.item_ids_BK).all()
    np.testing.assert_allclose(searched.source_scores_BKS, exact.source_scores_BKS, rtol=1e-3, atol=1e-4)


def test_own_items_that_are_not_seen_come_from_their_own_source_and_from_the_others(shop_artifact: Artifact) -> None:
    stage = CandidateGenerator(shop_artifact, CandidateConfig(n_candidates=240))
    assert stage.sources[0] == "history"
    requests, profiles = batches(shop_artifact, 2)
    recent_first = request_batch([Query("", 100, 0.0)] * len(requests), shop_artifact.model_version)
    lists = stage.lists(recent_first, profiles)
    by_others = 0
    for row in range(len(requests)):
        items = profiles.item_BH[row][profiles.item_BH[row] >= 0]
        weight = profiles.weight_BH[row][: len(items)]
        recent, strong = items[::-1][:SOURCE_HISTORY_LENGTH], weight[::-1][:SOURCE_HISTORY_LENGTH] > 0
        may_come = {item for item in recent[strong].tolist() if item % 3}
        own = [item for item in lists["history"][row].tolist() if item >= 0]
        assert set(own) <= may_come
        assert len(own) == len(may_come), "each of them"
        others = np.concatenate([found[row] for name, found in lists.items() if name != "history"])
        by_others += len(set(others.tolist()) & may_come)
        assert not set(others.tolist()) & {item for item in items.tolist() if item % 3 == 0}
    assert by_others > 100


def test_the_most_recent_of_equally_strong_own_items_comes_first(shop_artifact: Artifact) -> None:
    stage = CandidateGenerator(shop_artifact, CandidateConfig(n_candidates=100))
    version = shop_artifact.model_version
    item_BH = np.array([[5, 9, 7, 9, 3]], np.int32)
    weight_BH = np.array([[0.4, 0.4, 0.4, 0.4, -0.5]], np.float32)
    profiles = Profiles(shop_artifact, ProfileConfig())(
        HistoryBatch(
            version,
            item_BH,
            np.zeros(item_BH.shape),
            weight_BH,
            np.zeros(item_BH.shape, np.bool_),
            np.full(item_BH.shape, PAD, np.int16),
            np.zeros(item_BH.shape, np.float32),
            np.zeros((1, 2), np.float32),
        )
    )
    found = stage.lists(request_batch([Query("", 10, 0.0)], version), profiles)["history"][0]
    assert found[found >= 0].tolist() == [9, 7, 5], "twice viewed, then by age; the disliked one is none"
