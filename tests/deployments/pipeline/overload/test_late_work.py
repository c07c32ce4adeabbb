"""A batch that left the queue too late for its stages gets fallbacks at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from deployments.api.operations import Recommender
from deployments.assembly import FunnelConfig
from deployments.pipeline.batcher import BatcherConfig
from deployments.pipeline.overload.late_work import skip_batch
from deployments.pipeline.overload.service_time import VALID_S, ServiceTime
from deployments.pipeline.time_budget import PipelineConfig
from deployments.store.memory import MemoryStore
from tests.deployments.pipeline.test_pipeline import Stuck, sources

Build = Callable[..., Recommender]


def lately(service_time: ServiceTime, seconds: float) -> None:
    """Batches have lately taken so many seconds."""
    now = time.monotonic()
    for _ in range(3):
        service_time.observe(now - seconds, now)


@pytest.mark.parametrize(
    ("waited_s", "took_s", "skipped"),
    [(0.2, 0.2, False), (0.2, 0.3, True), (0.04, 9.0, False), (0.06, 9.0, True), (0.6, 0.0, True)],
)
def test_a_batch_is_skipped_if_its_time_left_is_shorter_than_batches_lately_took(
    waited_s: float, took_s: float, skipped: bool
) -> None:
    service_time = ServiceTime()
    lately(service_time, took_s)
    assert skip_batch(waited_s, 0.5, 0.01, service_time, time.monotonic()) is skipped


def test_what_was_long_ago_or_happened_once_is_no_service_time() -> None:
    service_time = ServiceTime()
    assert service_time.expected_s(100.0) == 0
    for seconds in (9.0, 0.1):
        service_time.observe(100.0 - seconds, 100.0)
    assert service_time.expected_s(100.5) == 0, "one of two may be the odd one"
    service_time.observe(99.9, 100.0)
    assert service_time.expected_s(100.5) == pytest.approx(0.1)
    assert service_time.expected_s(100.0 + VALID_S + 0.1) == 0, "else a slow time would forbid its own end"


async def test_a_skipped_batch_calls_no_stage_but_the_profile_and_counts_as_lost_demand(
    in_process: Build, store: MemoryStore
) -> None:
    stuck = Stuck()
    config = FunnelConfig(batcher=BatcherConfig(in_flight=1), pipeline=PipelineConfig(deadline_ms=500))
    recommender = in_process(store, config, {"candidates": stuck})
    first = asyncio.ensure_future(recommender.recommend({"user_id": "u1", "deadline_ms": 10_000}))
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(recommender.recommend({"user_id": "u2", "deadline_ms": 500}))
    await asyncio.sleep(0.2)
    lately(recommender._pipeline._service_time, 0.45)
    stuck.gate.set()
    answer = await second
    assert answer["degraded"] == ["candidates:late", "scoring:late", "ranking:late"]
    assert sources(answer) == {"popular"}
    await first
    assert stuck.calls == 1
    assert recommender.stats()["expired"] == 1, "the policy must see that work was skipped"


async def test_a_caller_with_a_short_deadline_degrades_no_other_answer(in_process: Build, store: MemoryStore) -> None:
    stuck = Stuck()
    config = FunnelConfig(batcher=BatcherConfig(in_flight=1), pipeline=PipelineConfig(deadline_ms=2_000))
    recommender = in_process(store, config, {"ranking": stuck})
    first = asyncio.ensure_future(recommender.recommend({"user_id": "u0", "deadline_ms": 10_000}))
    await asyncio.sleep(0.05)
    asked = [("u1", 10_000), ("u2", 250), ("u3", 10_000)]  # one batch, the short deadline in its middle
    waiting = [
        asyncio.ensure_future(recommender.recommend({"user_id": user, "deadline_ms": ms, "explain": True}))
        for user, ms in asked
    ]
    await asyncio.sleep(0.1)
    lately(recommender._pipeline._service_time, 0.2)
    stuck.gate.set()
    answers = await asyncio.gather(*waiting)
    await first
    assert [answer["batch_size"] for answer in answers] == [3, 3, 3]
    assert not [entry for answer in answers for entry in answer["degraded"] if entry.endswith(":late")]
