"""Deadlines and fallbacks, with real stages of which one misbehaves."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.api.operations import Recommender
from deployments.assembly import FunnelConfig
from deployments.errors import Overloaded, StageFailed
from deployments.messages import Batch
from deployments.pipeline.batch import BatchState
from deployments.pipeline.batcher import BatcherConfig
from deployments.pipeline.stage_client import Batches, StageClient
from deployments.pipeline.time_budget import STAGES, PipelineConfig
from deployments.store.memory import MemoryStore

Build = Callable[..., Recommender]
FALLBACK = {
    "profile": "popular items, as for a new user",
    "candidates": "popular items, scored",
    "scoring": "candidates by retrieval score",
    "ranking": "candidates by model score",
}


class Stuck:
    """A stage that does not answer until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.deadline = self.left_s = 0.0
        """Of the last call: its deadline, and the time left to it."""
        self.gate = asyncio.Event()

    async def __call__(self, deadline: float, batches: Batches) -> Batch:
        self.calls += 1
        self.deadline, self.left_s = deadline, deadline - time.time()
        await self.gate.wait()
        raise StageFailed("stuck", "error", "let go")


async def broken(deadline: float, batches: Batches) -> Batch:
    raise ZeroDivisionError("a bug in the stage")


def sources(answer: dict[str, Any]) -> set[str]:
    return {item["source"] for item in answer["items"]}


@pytest.mark.parametrize("stage", STAGES)
async def test_a_broken_stage_is_replaced_and_the_answer_says_so(
    in_process: Build, store: MemoryStore, stage: str
) -> None:
    whole = await in_process(store).recommend({"user_id": "u1"})
    answer = await in_process(store, starts={stage: broken}).recommend({"user_id": "u1", "explain": True})
    assert answer["degraded"] == [f"{stage}:error"], FALLBACK[stage]
    assert len(answer["items"]) == 10
    if stage in ("profile", "candidates"):
        assert sources(answer) == {"popular"}
    else:
        assert sources(answer) != {"popular"}
    reasons = [item["reason"] for item in answer["items"]]
    if stage == "scoring":
        assert all(reason["model_score"] == reason["retrieval_score"] for reason in reasons)
    if stage == "ranking":
        assert [reason["rank_by_model"] for reason in reasons] == list(range(1, 11))
    assert whole["degraded"] == []


@pytest.mark.parametrize("stage", STAGES)
async def test_a_stage_that_hangs_costs_its_share_of_the_deadline_and_no_more(
    in_process: Build, store: MemoryStore, stage: str
) -> None:
    stuck = Stuck()
    recommender = in_process(store, starts={stage: stuck})
    answer = await recommender.recommend({"user_id": "u1", "deadline_ms": 400})
    assert answer["degraded"][0] in (f"{stage}:timeout", f"{stage}:deadline")
    assert len(answer["items"]) == 10
    assert stuck.calls == 1
    assert stuck.left_s < 0.4 * PipelineConfig().finished_by[stage]
    stuck.gate.set()


async def test_a_stage_whose_slots_are_all_given_up_is_passed_over_at_once(
    in_process: Build, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals: list[str] = []
    call = StageClient.call

    async def noted(self: StageClient, *given: Any) -> Any:
        try:
            return await call(self, *given)
        except StageFailed as failure:
            refusals.append(str(failure))
            raise

    monkeypatch.setattr(StageClient, "call", noted)
    stuck = Stuck()
    recommender = in_process(store, starts={"scoring": stuck})
    for _ in range(4):
        await recommender.recommend({"user_id": "u1", "deadline_ms": 60})
    assert stuck.calls == 4, "as many as there are slots"
    answer = await recommender.recommend({"user_id": "u1", "deadline_ms": 5_000})
    assert answer["degraded"] == ["scoring:busy"]
    assert "every slot is held by an abandoned call" in refusals[-1], "it did not wait for a slot"
    stuck.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    again = await recommender.recommend({"user_id": "u1", "deadline_ms": 5_000})
    assert again["degraded"] == ["scoring:error"], "the slots are free again"
    assert stuck.calls == 5


async def test_a_short_deadline_is_kept_within_a_batch_of_patient_requests(
    in_process: Build, store: MemoryStore
) -> None:
    stuck = Stuck()
    recommender = in_process(store, starts={"scoring": stuck})
    began, answered = time.time(), []

    async def ask(deadline_ms: int) -> dict[str, Any]:
        answer = await recommender.recommend({"user_id": "u1", "deadline_ms": deadline_ms})
        answered.append(deadline_ms)
        return answer

    patient, hasty = await asyncio.gather(ask(1500), ask(150))
    assert answered == [150, 1500]
    assert hasty["degraded"] == ["scoring:deadline"]
    assert sources(hasty) != {"popular"}, "the candidates were there by then"
    assert stuck.deadline - began > 1.3, "the stage has the time of the patient one"
    assert patient["degraded"] == ["scoring:timeout"]
    stuck.gate.set()


async def test_a_request_that_can_not_leave_the_queue_in_time_gets_popular_items(
    in_process: Build, store: MemoryStore
) -> None:
    stuck = Stuck()
    config = FunnelConfig(batcher=BatcherConfig(in_flight=1))
    recommender = in_process(store, config, {"candidates": stuck})
    first = asyncio.ensure_future(recommender.recommend({"user_id": "u1", "deadline_ms": 1000}))
    await asyncio.sleep(0.05)
    answer = await recommender.recommend({"user_id": "u2", "deadline_ms": 100})
    assert answer["degraded"] == ["queue:deadline"]
    assert len(answer["items"]) == 10
    assert (await first)["degraded"] == ["candidates:timeout"]
    assert stuck.calls == 1, "the second was answered before its batch left"
    stuck.gate.set()


@pytest.mark.parametrize("stuck_in", ["queue", "scoring"])
async def test_those_whose_deadline_came_while_the_event_loop_was_busy_are_answered_together(
    in_process: Build, store: MemoryStore, stuck_in: str
) -> None:
    stuck = Stuck()
    config = FunnelConfig(batcher=BatcherConfig(in_flight=1))
    recommender = in_process(store, config, {"candidates" if stuck_in == "queue" else "scoring": stuck})
    bodies: list[dict[str, Any]] = [
        {"user_id": f"u{i}", "n": 3 + i, "deadline_ms": 2000 if i == 5 else 200, "explain": True} for i in range(6)
    ]
    first = asyncio.ensure_future(recommender.recommend({"user_id": "u9", "deadline_ms": 2000}))
    if stuck_in == "queue":
        await asyncio.sleep(0.05)
    waiting = [asyncio.ensure_future(recommender.recommend(body)) for body in bodies]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in waiting)
    time.sleep(0.2)  # noqa: ASYNC251 - a busy event loop
    late = await asyncio.gather(*waiting[:5])
    assert [answer["degraded"] for answer in late] == [[f"{stuck_in}:deadline"]] * 5
    assert [(answer["user_id"], len(answer["items"])) for answer in late] == [(f"u{i}", 3 + i) for i in range(5)]
    if stuck_in == "queue":
        assert [answer["batch_size"] for answer in late] == [5] * 5
    assert not waiting[5].done(), "it has time left"
    stuck.gate.set()
    await asyncio.gather(first, waiting[5])


async def test_past_the_bound_of_the_queue_the_answer_is_overloaded_at_once(
    in_process: Build, store: MemoryStore
) -> None:
    stuck = Stuck()
    config = FunnelConfig(batcher=BatcherConfig(in_flight=1, max_queue=3))
    recommender = in_process(store, config, {"candidates": stuck})
    waiting = [asyncio.ensure_future(recommender.recommend({"user_id": "u1", "deadline_ms": 500}))]
    await asyncio.sleep(0.05)
    others = ("u2", "u3", "u4")
    waiting += [asyncio.ensure_future(recommender.recommend({"user_id": u, "deadline_ms": 500})) for u in others]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="3 requests are waiting already"):
        await recommender.recommend({"user_id": "u1"})
    assert all(len(answer["items"]) == 10 for answer in await asyncio.gather(*waiting))
    stuck.gate.set()


async def test_without_the_store_answers_keep_coming_and_heal_by_themselves(
    in_process: Build, store: MemoryStore
) -> None:
    recommender = in_process(store)
    store.failing = True
    answer = await recommender.recommend({"user_id": "u1"})
    assert answer["degraded"] == ["profile:store"]
    assert sources(answer) == {"popular"}
    store.failing = False
    assert (await recommender.recommend({"user_id": "u1"}))["degraded"] == []


async def test_requests_at_the_same_time_travel_as_one_batch_and_get_what_they_would_get_alone(
    in_process: Build, store: MemoryStore
) -> None:
    recommender = in_process(store, FunnelConfig(batcher=BatcherConfig(in_flight=1)))
    bodies = [{"user_id": f"u{i}", "n": i % 9 + 1, "deadline_ms": 10_000, "explain": True} for i in range(30)]
    together = await asyncio.gather(*(recommender.recommend(body) for body in bodies))
    assert {answer["batch_size"] for answer in together} == {30}
    for body, answer in zip(bodies, together, strict=True):
        alone = await recommender.recommend(body)
        assert [i["item_id"] for i in answer["items"]] == [i["item_id"] for i in alone["items"]]
        assert len(answer["items"]) == body["n"]


async def test_answered_batches_leave_no_work_for_the_garbage_collector(in_process: Build, store: MemoryStore) -> None:
    recommender = in_process(store)
    gc.collect()
    gc.disable()
    try:
        for user in range(5):
            await asyncio.gather(*(recommender.recommend({"user_id": f"u{user}", "n": n}) for n in range(1, 9)))
        left = sum(type(thing) is BatchState for thing in gc.get_objects())
    finally:
        gc.enable()
    assert left <= 1, "the last one may still be in a frame"


async def test_a_caller_that_goes_away_does_not_disturb_its_batch(in_process: Build, store: MemoryStore) -> None:
    recommender = in_process(store)
    gone = asyncio.ensure_future(recommender.recommend({"user_id": "u1"}))
    stays = asyncio.ensure_future(recommender.recommend({"user_id": "u2"}))
    await asyncio.sleep(0)
    gone.cancel()
    assert len((await stays)["items"]) == 10
    with pytest.raises(asyncio.CancelledError):
        await gone


@pytest.mark.parametrize(
    "shares",
    [
        {"profile": 0.5},
        {"profile": 0.5, "candidates": 0.4, "scoring": 0.9, "ranking": 1.0},
        {"profile": 0.0, "candidates": 0.4, "scoring": 0.9, "ranking": 1.0},
        {"profile": 0.1, "candidates": 0.4, "scoring": 0.9, "ranking": 1.1},
    ],
)
def test_shares_of_the_deadline_must_rise_to_at_most_one(shares: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="finished_by"):
        PipelineConfig(finished_by=shares)
