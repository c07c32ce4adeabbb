"""Candidates from parts of the catalogue: together what the whole gives, fewer parts less, and answers so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from deployments.assembly import FunnelConfig
from deployments.errors import StageFailed
from deployments.messages import Batch, CandidateBatch, ProfileBatch, RequestBatch, ShardBatch
from deployments.pipeline.request import Query, request_batch
from deployments.pipeline.result_cache import CacheConfig
from deployments.pipeline.stage_client import Batches, Start, local, scattered
from deployments.stages.candidates import CandidateConfig, CandidateGenerator
from deployments.stages.shards import CandidateShard, Gatherer, ShardConfig
from deployments.store.memory import MemoryStore
from tests.deployments.stages.test_candidates import ITEMS, batches

WIDTH = 100


def shards(artifact: Artifact, count: int) -> list[CandidateShard]:
    return [
        CandidateShard(artifact, ShardConfig(n_candidates=WIDTH, shard=shard, shards=count)) for shard in range(count)
    ]


def assert_same(ours: CandidateBatch, whole: CandidateBatch) -> None:
    assert (ours.item_ids_BK == whole.item_ids_BK).all()
    assert (ours.source_BK == whole.source_BK).all()
    np.testing.assert_allclose(ours.source_scores_BKS, whole.source_scores_BKS, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(ours.retrieval_scores_BK, whole.retrieval_scores_BK, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_all_shards_together_give_the_candidates_of_the_whole_catalogue(artifact: Artifact, count: int) -> None:
    whole = CandidateGenerator(artifact, CandidateConfig(n_candidates=WIDTH))
    gatherer, built = Gatherer(artifact, CandidateConfig(n_candidates=WIDTH)), shards(artifact, count)
    for seed in range(6):
        requests, profiles = batches(artifact, seed)
        answers = [shard(requests, profiles) for shard in built]
        found = gatherer(requests, profiles, answers, count)
        assert_same(found, whole(requests, profiles))
        assert found.shards == (count, count)


def test_similar_items_are_the_same_from_shards(artifact: Artifact) -> None:
    whole = CandidateGenerator(artifact, CandidateConfig(n_candidates=WIDTH))
    gatherer, built = Gatherer(artifact, CandidateConfig(n_candidates=WIDTH)), shards(artifact, 3)
    queries = [
        Query("", n=n, deadline=0.0, given=np.array([seed], np.int32)) for seed, n in ((0, 10), (7, 3), (239, 1))
    ]
    asked = request_batch(queries, artifact.model_version)
    ours, theirs = gatherer.similar(asked, [shard.similar(asked) for shard in built], 3), whole.similar(asked)
    assert_same(ours, theirs)
    assert theirs.mask_BK.sum(axis=1).tolist() == [10, 3, 1]


def lost(
    artifact: Artifact, requests: RequestBatch, profiles: ProfileBatch, gone: int
) -> tuple[CandidateBatch, list[ShardBatch]]:
    answers = [shard(requests, profiles) for number, shard in enumerate(shards(artifact, 3)) if number != gone]
    return Gatherer(artifact, CandidateConfig(n_candidates=WIDTH))(requests, profiles, answers, 3), answers


def test_without_a_shard_the_items_of_the_others_remain(artifact: Artifact) -> None:
    requests, profiles = batches(artifact, 3)
    found, _ = lost(artifact, requests, profiles, gone=1)
    whole = CandidateGenerator(artifact, CandidateConfig(n_candidates=WIDTH))(requests, profiles)
    assert found.shards == (2, 3)
    enough = 0
    for row in range(len(requests)):
        wanted = min(int(requests.n_B[row]), int(whole.mask_BK[row].sum()))
        assert found.mask_BK[row].sum() >= min(wanted, (whole.item_ids_BK[row][whole.mask_BK[row]] % 3 != 1).sum())
        by_source = found.item_ids_BK[row][found.source_scores_BKS[row][:, 0] > 0]
        assert not (by_source % 3 == 1).any(), "no source speaks for the lost items"
        enough += int(found.mask_BK[row].sum() >= wanted)
    assert enough == len(requests), "what is missing comes from popularity"


def test_concatenated_answers_of_a_shard_merge_as_one_answer(artifact: Artifact) -> None:
    requests, profiles = batches(artifact, 4)
    shard = shards(artifact, 2)[0]
    whole = shard(requests, profiles)
    halves = [shard(requests.take(rows), profiles.take(rows)) for rows in (slice(0, 10), slice(10, None))]
    joined = ShardBatch.concat(halves)
    gatherer = Gatherer(artifact, CandidateConfig(n_candidates=WIDTH))
    assert_same(gatherer(requests, profiles, [joined], 2), gatherer(requests, profiles, [whole], 2))


@pytest.fixture
def sharded(
    in_process: Callable[..., Recommender], artifact: Artifact, store: MemoryStore
) -> Callable[..., Recommender]:
    """A recommender over three shards; `broken`: calls that take the place of a shard's own, by its number."""

    def build(broken: dict[int, Start], cache: bool = False) -> Recommender:
        config = CandidateConfig(n_candidates=WIDTH)
        asked = [broken.get(number, local(shard, 4)) for number, shard in enumerate(shards(artifact, 3))]
        start = scattered("candidates", asked, Gatherer(artifact, config), 4)
        funnel = FunnelConfig(cache=CacheConfig(candidates_ttl_s=60 if cache else 0))
        return in_process(store, funnel, {"candidates": start})

    return build


async def lost_shard(deadline: float, batches: Batches) -> Batch:
    raise StageFailed("shard", "lost", "no replica")


async def hung_shard(deadline: float, batches: Batches) -> Batch:
    await asyncio.sleep(3600)
    raise AssertionError


async def answer(recommender: Recommender, **more: Any) -> dict[str, Any]:
    return await recommender.recommend({"user_id": "u1", "n": 10, "deadline_ms": 3000} | more)


async def test_a_funnel_over_shards_answers_as_one_without(
    sharded: Callable[..., Recommender], in_process: Callable[..., Recommender], store: MemoryStore
) -> None:
    whole, sharded_one = in_process(store), sharded({})
    for user in ("u1", "u7", "nobody"):
        ours, theirs = [await recommender.recommend({"user_id": user}) for recommender in (sharded_one, whole)]
        assert [i["item_id"] for i in ours["items"]] == [i["item_id"] for i in theirs["items"]]
        assert ours["degraded"] == []


@pytest.mark.parametrize("broken", [lost_shard, hung_shard])
async def test_an_answer_without_a_shard_reports_the_number_of_shards(
    sharded: Callable[..., Recommender], broken: Start
) -> None:
    found = await answer(sharded({1: broken}), deadline_ms=1000)
    assert found["degraded"] == ["candidates:2/3 shards"]
    assert len(found["items"]) == 10


async def test_no_shard_at_all_is_a_lost_stage(sharded: Callable[..., Recommender]) -> None:
    found = await answer(sharded(dict.fromkeys(range(3), lost_shard)))
    assert found["degraded"] == ["candidates:lost"]
    assert len(found["items"]) == 10


async def test_candidates_without_a_shard_are_not_cached(
    sharded: Callable[..., Recommender], artifact: Artifact
) -> None:
    shard, gone = local(shards(artifact, 3)[1], 4), True

    async def flaky(deadline: float, batches: Batches) -> Batch:
        return await (lost_shard if gone else shard)(deadline, batches)

    recommender = sharded({1: flaky}, cache=True)
    assert (await answer(recommender))["degraded"] == ["candidates:2/3 shards"]
    gone = False
    assert (await answer(recommender))["degraded"] == []


async def test_similar_items_without_a_shard_are_reported_as_degraded(
    artifact: Artifact, in_process: Callable[..., Recommender]
) -> None:
    asked = [lost_shard, *(local(shard.similar, 4) for shard in shards(artifact, 3)[1:])]
    gather = Gatherer(artifact, CandidateConfig(n_candidates=WIDTH)).similar
    recommender = in_process(starts={"similar": scattered("similar", asked, gather, 4)})
    found = await recommender.similar({"item_id": "i8", "n": 5})
    assert found["degraded"] == ["similar:2/3 shards"]
    places = recommender.catalogue.positions([item["item_id"] for item in found["items"]])
    assert len(places) == 5
    assert (places % 3 != 0).all()


def test_of_a_catalogue_with_fewer_items_than_candidates_all_are_taken(
    artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rayfunnel")
    CandidateShard(artifact, ShardConfig(n_candidates=ITEMS + 1, shard=0, shards=2))
    assert "n_candidates is 241; the catalogue has 240 items, so these are taken" in caplog.text
