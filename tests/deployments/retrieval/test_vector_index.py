"""The index of item vectors: chosen for a recall target, searched whole and in shards, with and without filters."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import pytest

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.messages import Array, Bools
from deployments.retrieval.partition import WHOLE_CATALOGUE, Shard
from deployments.retrieval.vector_index import VectorIndex
from graphs.fit.index_choice import DEPTH, TARGET, choose_index

N, D, Q = 60_000, 17, 100


def clustered(rng: np.random.Generator, count: int) -> Array:
    centre_CD = np.random.default_rng(0).normal(size=(300, D))
    vectors = (centre_CD[rng.integers(0, 300, count)] + 0.5 * rng.normal(size=(count, D))).astype(np.float32)
    vectors[:, -1] = 1
    return vectors


@pytest.fixture(scope="module")
def vectors_ND() -> Array:
    vectors = clustered(np.random.default_rng(1), N)
    vectors[:, -1] = np.random.default_rng(2).normal(size=N)
    return vectors


@pytest.fixture(scope="module")
def queries_QD() -> Array:
    return clustered(np.random.default_rng(3), Q)


@pytest.fixture(scope="module")
def lists(vectors_ND: Array, queries_QD: Array, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An artifact whose index has inverted lists."""
    folder = tmp_path_factory.mktemp("index") / "lists"
    chosen = choose_index(vectors_ND, queries_QD)
    with ArtifactWriter(str(folder), settings={"index": chosen.settings}) as writer:
        writer.tensors("items.safetensors", {"item_vectors_ND": vectors_ND})
        faiss.write_index(chosen.index, str(writer.file("items.faiss")))
    return Artifact.open(str(folder))


NONE: Array = np.zeros(0, np.int32)
ALL: Bools = np.zeros(0, np.bool_)


def exact(vectors_ND: Array, query_D: Array, allowed_N: Bools, depth: int) -> set[int]:
    score_N = np.where(allowed_N, vectors_ND @ query_D, -np.inf)
    return set(np.argsort(-score_N)[:depth].tolist())


def test_a_small_catalogue_is_compared_whole(vectors_ND: Array, queries_QD: Array) -> None:
    chosen = choose_index(vectors_ND[:1000], queries_QD)
    assert chosen.settings["kind"] == "exact"
    assert isinstance(chosen.index, faiss.IndexFlatIP)


def test_vectors_without_structure_are_compared_whole_too(queries_QD: Array) -> None:
    """Every list would have to be probed."""
    noise = np.random.default_rng(5).normal(size=(3000, D)).astype(np.float32)
    flat = np.random.default_rng(6).normal(size=(Q, D)).astype(np.float32)
    assert choose_index(noise, flat, exact_up_to=100).settings["kind"] == "exact"


def test_the_index_reaches_the_recall_it_states(lists: Artifact, vectors_ND: Array, queries_QD: Array) -> None:
    settings = lists.manifest.settings["index"]
    assert settings["kind"] == "IVF512,SQ8"
    assert settings["recall@500"] >= TARGET
    vectors = VectorIndex(lists, WHOLE_CATALOGUE)
    assert not vectors.exact
    mapped: Any = faiss.downcast_InvertedLists(faiss.extract_index_ivf(vectors._index).invlists)
    assert mapped.prefetch_nthread == 0, "else every search starts threads"
    item_QR, score_QR = vectors.search(queries_QD, [NONE] * Q, [ALL] * Q, DEPTH)
    everything = np.ones(N, np.bool_)
    found = [len(set(item_QR[q]) & exact(vectors_ND, queries_QD[q], everything, DEPTH)) for q in range(Q)]
    assert np.mean(found) / DEPTH == pytest.approx(settings["recall@500"], abs=0.005)
    assert (np.diff(score_QR, axis=1) <= 0).all()
    np.testing.assert_allclose(
        score_QR[0], vectors_ND[item_QR[0]] @ queries_QD[0], rtol=1e-4, err_msg="scores are exact"
    )


def test_few_items_that_pass_a_filter_are_all_found(lists: Artifact, vectors_ND: Array, queries_QD: Array) -> None:
    passes_N = np.arange(N) % 50 == 7
    item_QR, _ = VectorIndex(lists, WHOLE_CATALOGUE).search(queries_QD[:3], [NONE] * 3, [passes_N] * 3, 150)
    for q in range(3):
        assert set(item_QR[q].tolist()) == exact(vectors_ND, queries_QD[q], passes_N, 150)


@pytest.mark.parametrize("of", [1, 3])
def test_unwanted_items_are_left_out_under_a_wide_filter(lists: Artifact, queries_QD: Array, of: int) -> None:
    for index in range(of):
        shard = Shard(index, of)
        passes_N = shard.select_rows(np.arange(N) % 10 != 3)
        unwanted = shard.to_local(np.arange(0, 30_000, 7, dtype=np.int32))
        item_QR, _ = VectorIndex(lists, shard).search(queries_QD[:2], [unwanted] * 2, [passes_N] * 2, 150)
        for row in item_QR:
            items = shard.to_catalogue(row[row >= 0])
            assert len(items) == 150
            assert (items % 10 != 3).all()
            assert not ((items < 30_000) & (items % 7 == 0)).any()


@pytest.mark.parametrize("of", [1, 3])
def test_seen_items_are_left_out_of_long_and_short_histories_in_any_batch(
    lists: Artifact, vectors_ND: Array, queries_QD: Array, of: int
) -> None:
    for number in range(of):
        shard = Shard(number, of)
        vectors = VectorIndex(lists, shard)
        best_QN = np.argsort(-(queries_QD[:5] @ vectors.vectors_ND.T), axis=1).astype(np.int32)
        unwanted = [best_QN[q, :count] for q, count in enumerate((0, 200, 301, 3000, 5000))]
        passes = [ALL] * 5
        together, score_QR = vectors.search(queries_QD[:5], unwanted, passes, 150)
        for q in range(5):
            alone, _ = vectors.search(queries_QD[q : q + 1], unwanted[q : q + 1], passes[:1], 150)
            assert alone[0].tolist() == together[q].tolist()
            assert len(set(alone[0].tolist()) - {-1} - set(unwanted[q].tolist())) == 150
            np.testing.assert_allclose(score_QR[q], vectors.vectors_ND[together[q]] @ queries_QD[q], rtol=1e-4)
            wanted = best_QN[q, len(unwanted[q]) :][:150]
            if q < 3:  # the lists that are probed hold less of what comes after the best thousands
                assert len(set(wanted.tolist()) & set(alone[0].tolist())) >= 110


def test_all_shards_together_find_the_items_of_the_whole_index(lists: Artifact, queries_QD: Array) -> None:
    whole, _ = VectorIndex(lists, WHOLE_CATALOGUE).search(queries_QD, [NONE] * Q, [ALL] * Q, 100)
    found: list[list[tuple[float, int]]] = [[] for _ in range(Q)]
    for index in range(3):
        shard = Shard(index, 3)
        item_QR, score_QR = VectorIndex(lists, shard).search(queries_QD, [NONE] * Q, [ALL] * Q, 100)
        for q in range(Q):
            found[q] += zip(-score_QR[q], shard.to_catalogue(item_QR[q]).tolist(), strict=True)
    same = [len({item for _, item in sorted(found[q])[:100]} & set(whole[q].tolist())) for q in range(Q)]
    assert np.mean(same) >= 99, "but for the rounding of 8 bits at the end of the list"


def test_similar_items_are_near_by_cosine(lists: Artifact, vectors_ND: Array) -> None:
    vectors = VectorIndex(lists, WHOLE_CATALOGUE)
    near = vectors.nearest_by_cosine(11, 20)
    cosine_N = vectors.cosines(11, np.arange(N))
    assert 11 in near.tolist()
    best = np.sort(cosine_N)[-20:]
    assert cosine_N[near].mean() > 0.95 * best.mean()
