"""Quality is given up before requests are, and returns first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.api.operations import Recommender
from deployments.assembly import FunnelConfig
from deployments.messages import CandidateBatch
from deployments.pipeline.batcher import BatcherConfig
from deployments.pipeline.overload.quality_factor import QualityConfig, QualityFactor
from deployments.pipeline.request import Query, request_batch
from deployments.pipeline.time_budget import PipelineConfig
from deployments.stages import fallbacks
from deployments.store.memory import MemoryStore
from tests.deployments.pipeline.test_pipeline import Stuck, sources

Build = Callable[..., Recommender]


def test_the_factor_falls_with_the_wait_at_once_and_returns_slowly() -> None:
    quality = QualityFactor(QualityConfig(enabled=True, from_wait=0.4, to_wait=0.8, recovery_per_s=0.5))
    assert quality.update(0.0, 0.1, 0.5) == 1.0
    assert quality.update(0.1, 0.3, 0.5) == pytest.approx(0.5)
    assert quality.update(0.2, 0.45, 0.5) == 0.0
    assert quality.update(0.4, 0.0, 0.5) == pytest.approx(0.1), "half per second"
    assert quality.update(3.0, 0.0, 0.5) == 1.0


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2)), min_size=2, max_size=30), st.floats(-1, 1))
def test_the_factor_stays_in_bounds_and_falls_with_the_wait(steps: list[tuple[float, float]], allowed_s: float) -> None:
    one, other, now = QualityFactor(QualityConfig(enabled=True)), QualityFactor(QualityConfig(enabled=True)), 0.0
    for gap, waited_s in steps:
        now += gap
        more = other.update(now, waited_s + 0.1, allowed_s)
        assert 0.0 <= more <= one.update(now, waited_s, allowed_s) <= 1.0


def test_switched_off_it_is_always_whole() -> None:
    assert QualityFactor(QualityConfig(enabled=False)).update(0.0, 10.0, 0.5) == 1.0


def test_the_wait_that_ends_it_must_be_the_longer_one() -> None:
    with pytest.raises(ValidationError, match=r"to_wait = 0\.3 must be greater than from_wait = 0\.4"):
        QualityConfig(to_wait=0.3)


@pytest.mark.parametrize(
    ("wait", "degraded"),
    [
        (0.0, []),
        (0.6, ["scoring:quality"]),
        (0.75, ["scoring:quality"]),
        (0.9, ["candidates:quality", "scoring:quality", "ranking:quality"]),
    ],
)
async def test_what_waited_long_is_answered_with_less_work(
    in_process: Build, store: MemoryStore, wait: float, degraded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FunnelConfig(pipeline=PipelineConfig(quality=QualityConfig(enabled=True)))
    recommender = in_process(store, config)
    update = QualityFactor.update
    monkeypatch.setattr(QualityFactor, "update", lambda self, now, _, allowed_s: update(self, now, wait * 10.0, 10.0))
    answer = await recommender.recommend({"user_id": "u1", "deadline_ms": 10_000, "explain": True})
    assert answer["degraded"] == degraded
    assert len(answer["items"]) == 10
    assert (sources(answer) == {"popular"}) == (wait == 0.9)
    scored = [item["reason"]["model_score"] != item["reason"]["retrieval_score"] for item in answer["items"]]
    assert all(scored) == (wait <= 0.6), "below the floor the order is that of retrieval"
    assert recommender.stats()["expired"] == (wait > 0), "the policy must see that work was spared"


async def test_a_queue_gives_up_quality_before_it_gives_up_requests(in_process: Build, store: MemoryStore) -> None:
    stuck = Stuck()
    config = FunnelConfig(
        batcher=BatcherConfig(in_flight=1),
        pipeline=PipelineConfig(deadline_ms=600, quality=QualityConfig(enabled=True, from_wait=0.1, to_wait=0.9)),
    )
    recommender = in_process(store, config, {"candidates": stuck})
    first = asyncio.ensure_future(recommender.recommend({"user_id": "u1", "deadline_ms": 1_000}))
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(recommender.recommend({"user_id": "u2", "deadline_ms": 600}))
    assert (await first)["degraded"] == ["candidates:timeout"]
    assert (await second)["degraded"][-1].startswith("scoring:"), "waited nine tenths of its time"
    stuck.gate.set()


async def test_an_impatient_caller_cuts_no_other_answer(in_process: Build, store: MemoryStore) -> None:
    recommender = in_process(store)
    await recommender.recommend({"user_id": "u1", "deadline_ms": 10})
    answer = await recommender.recommend({"user_id": "u2", "deadline_ms": 10_000})
    assert answer["degraded"] == []


async def test_items_that_the_caller_named_are_all_kept(
    in_process: Build, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = in_process(store)
    named = recommender.catalogue.item_ids[:60]
    monkeypatch.setattr(QualityFactor, "update", lambda *_: 0.3)
    answer = await recommender.rank({"user_id": "u1", "item_ids": list(named), "deadline_ms": 10_000})
    assert {item["item_id"] for item in answer["items"]} == set(named)


def test_the_best_by_retrieval_are_kept_in_their_order() -> None:
    chance = np.random.default_rng(1)
    scores_BK = chance.random((3, 40)).astype(np.float32)
    mask_BK = np.ones((3, 40), np.bool_)
    mask_BK[1, 5:] = False
    candidates = CandidateBatch(
        "v",
        np.where(mask_BK, np.arange(40, dtype=np.int32), np.int32(-1)),
        scores_BK,
        np.zeros((3, 40), np.int8),
        np.zeros((3, 40, 2), np.float32),
        mask_BK,
        ("a", "b"),
    )
    requests = request_batch([Query("u", 2, 0.0)] * 3, "v")
    kept = fallbacks.keep_best(requests, candidates, 0.25)
    assert (kept.item_ids_BK.shape, kept.share) == ((3, 10), 0.25)
    assert kept.source_scores_BKS.shape == (3, 10, 2)
    for row in (0, 2):
        assert kept.item_ids_BK[row].tolist() == sorted(np.argsort(-scores_BK[row])[:10].tolist())
    assert kept.mask_BK[1].sum() == 5, "padding goes first"
    assert fallbacks.keep_best(requests, candidates, 1.0) is candidates
