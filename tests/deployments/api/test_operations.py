"""The operations in one process, on the real stages: what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from deployments.assembly import FunnelConfig, seed
from deployments.errors import InvalidRequest, Overloaded, Unavailable, UnknownItem
from deployments.pipeline.overload.concurrency_limit import LimitsConfig
from deployments.pipeline.result_cache import CacheConfig
from deployments.store.base import StoreConfig
from deployments.store.events import Event
from deployments.store.memory import MemoryStore
from tests.support.in_process import recommender_builder

Build = Callable[..., Recommender]


@pytest.fixture
def recommender(in_process: Build, store: MemoryStore) -> Recommender:
    return in_process(store)


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


async def test_a_known_user_gets_n_unseen_items_best_first(recommender: Recommender, store: MemoryStore) -> None:
    answer = await recommender.recommend({"user_id": "u3", "n": 10})
    seen = {event.item_id for event in (await store.histories(["u3"])).events(0)}
    assert len(set(ids(answer))) == 10
    assert not seen & set(ids(answer))
    assert answer["degraded"] == []
    assert set(answer) == {"request_id", "user_id", "items", "model_version", "degraded"}


async def test_a_user_mostly_gets_the_genre_they_watch(trained_in_process: Build, store: MemoryStore) -> None:
    answer = await trained_in_process(store).recommend({"user_id": "u2", "n": 5, "metadata": True})
    assert sum("Drama" in item["metadata"]["genres"] for item in answer["items"]) >= 4


async def test_an_unknown_user_gets_popular_items_and_nothing_is_degraded(recommender: Recommender) -> None:
    answer = await recommender.recommend({"user_id": "nobody"})
    assert {item["source"] for item in answer["items"]} == {"popular"}
    assert len(answer["items"]) == 10
    assert answer["degraded"] == []


async def test_an_event_changes_the_next_recommendation(recommender: Recommender) -> None:
    before = await recommender.recommend({"user_id": "fresh"})
    liked = ids(before)[0]
    event = {"user_id": "fresh", "item_id": liked, "event_type": "like", "request_id": before["request_id"]}
    assert await recommender.record_events({"events": [event]}) == {
        "accepted": 1,
        "duplicates": 0,
        "clamped": 0,
        "unknown_item_ids": [],
    }
    after = await recommender.recommend({"user_id": "fresh"})
    assert liked not in ids(after)
    assert {item["source"] for item in after["items"]} != {"popular"}


async def test_an_event_of_the_future_is_stored_as_of_now_and_the_answer_says_so(
    recommender: Recommender, store: MemoryStore
) -> None:
    now = time.time()
    dated = [{"user_id": "early", "item_id": "i1", "event_type": "like", "timestamp": now + s} for s in (30, 86_400)]
    for sent, (clamped, duplicates) in enumerate([(1, 0), (1, 2)]):
        answer = await recommender.record_events({"events": dated})
        assert (answer["clamped"], answer["duplicates"]) == (clamped, duplicates), sent
    stored = (await store.histories(["early"])).timestamp_E
    assert sorted(round(at - now) for at in stored) == [0, 30]


async def test_a_viewed_item_may_come_again_and_a_bought_one_does_not(shop_artifact: Artifact) -> None:
    recommender = recommender_builder(shop_artifact, "eager")(
        config=FunnelConfig(cache=CacheConfig(candidates_ttl_s=0))
    )
    viewed = {"user_id": "visitor", "item_id": "i200", "event_type": "View"}
    await recommender.record_events({"events": [viewed]})
    asked = {"user_id": "visitor", "n": 100, "explain": True}
    answer = await recommender.recommend(asked)
    [own] = [item for item in answer["items"] if item["item_id"] == "i200"]
    assert own["source"] == "history"
    assert own["reason"]["source_scores"]["history"] == 0.5
    assert {item["reason"]["source_scores"]["history"] for item in answer["items"] if item is not own} == {0.0}
    await recommender.record_events({"events": [viewed | {"event_type": "purchase"}]})
    assert "i200" not in ids(await recommender.recommend(asked))


async def test_an_event_sent_again_counts_once(recommender: Recommender, store: MemoryStore) -> None:
    dated = {"user_id": "twice", "item_id": "i1", "event_type": "click", "timestamp": 1.7e9}
    named = {"user_id": "twice", "item_id": "i2", "event_type": "click", "event_id": "e-1"}
    first = await recommender.record_events({"events": [dated, named]})
    again = await recommender.record_events({"events": [dated, named]})
    assert (first["duplicates"], again["duplicates"]) == (0, 2)
    assert [e.item_id for e in (await store.histories(["twice"])).events(0)] == ["i1", "i2"]


async def test_events_of_unknown_items_are_kept_and_named(recommender: Recommender) -> None:
    body = {"events": [{"user_id": "u1", "item_id": "new item", "event_type": "view"}]}
    assert (await recommender.record_events(body))["unknown_item_ids"] == ["new item"]


async def test_excluded_items_and_filters_are_obeyed_and_backfilled(
    recommender: Recommender, store: MemoryStore
) -> None:
    first = ids(await recommender.recommend({"user_id": "u5", "n": 5}))
    rest = ids(await recommender.recommend({"user_id": "u5", "n": 5, "exclude_ids": [*first, "no such item"]}))
    assert not set(first) & set(rest)
    body = {"user_id": "u5", "n": 30, "filters": {"genres": ["Classic"]}, "metadata": True}
    classic = await recommender.recommend(body)
    assert all("Classic" in item["metadata"]["genres"] for item in classic["items"])
    seen = {event.item_id for event in (await store.histories(["u5"])).events(0)}
    unseen_classics = {f"i{i}" for i in range(0, 240, 7)} - seen
    assert set(ids(await recommender.recommend(body | {"n": 100}))) == unseen_classics


async def test_rank_gives_back_exactly_the_given_items(recommender: Recommender) -> None:
    given = [f"i{i}" for i in range(0, 120, 3)]
    answer = await recommender.rank({"user_id": "u7", "item_ids": [*given, "nonsense", given[0]]})
    assert sorted(ids(answer)) == sorted(given)
    assert answer["unknown_item_ids"] == ["nonsense"]


async def test_rank_and_recommend_agree_on_the_order_of_what_was_recommended(recommender: Recommender) -> None:
    recommended = await recommender.recommend({"user_id": "u9", "n": 20})
    scores = {item["item_id"]: item["score"] for item in recommended["items"]}
    ranked = await recommender.rank({"user_id": "u9", "item_ids": list(scores)})
    assert {item["item_id"]: item["score"] for item in ranked["items"]} == pytest.approx(scores, abs=1e-4)


async def test_similar_items_share_the_genre_and_leave_out_the_item(recommender: Recommender) -> None:
    answer = await recommender.similar({"item_id": "i8", "n": 5, "metadata": True})
    assert len(answer["items"]) == 5
    assert "i8" not in ids(answer)
    assert sum("Action" in item["metadata"]["genres"] for item in answer["items"]) >= 3


async def test_explain_says_where_an_item_came_from_and_how_long_each_stage_took(recommender: Recommender) -> None:
    answer = await recommender.recommend({"user_id": "u1", "explain": True})
    reason = answer["items"][0]["reason"]
    assert set(reason) == {
        "retrieval_score",
        "source_scores",
        "model_score",
        "rank_by_model",
        "diversity_penalty",
        "rule",
    }
    assert reason["model_score"] == pytest.approx(answer["items"][0]["score"])
    assert set(answer["timings_ms"]) == {"queue", "profile", "candidates", "scoring", "ranking"}
    assert answer["batch_size"] == 1


@pytest.mark.parametrize(
    ("operation", "body", "field"),
    [
        ("recommend", {}, "user_id"),
        ("recommend", {"user_id": 42}, "user_id"),
        ("recommend", {"user_id": ""}, "user_id"),
        ("recommend", {"user_id": "a\x00b"}, "user_id"),
        ("recommend", {"user_id": "u" * 257}, "user_id"),
        ("recommend", {"user_id": "u1", "n": 0}, "n"),
        ("recommend", {"user_id": "u1", "n": 101}, "n"),
        ("recommend", {"user_id": "u1", "n": True}, "n"),
        ("recommend", {"user_id": "u1", "n": 2.5}, "n"),
        ("recommend", {"user_id": "u1", "colour": "red"}, "colour"),
        ("recommend", {"user_id": "u1", "exclude_ids": "i1"}, "exclude_ids"),
        ("recommend", {"user_id": "u1", "filters": {"mood": ["dark"]}}, "filters.mood"),
        ("recommend", {"user_id": "u1", "filters": {"genres": ["Comdy"]}}, "filters.genres"),
        ("recommend", {"user_id": "u1", "context": {"x": float("nan")}}, "context.x"),
        ("recommend", {"user_id": "u1", "deadline_ms": -1}, "deadline_ms"),
        ("rank", {"user_id": "u1", "item_ids": []}, "item_ids"),
        ("rank", {"user_id": "u1", "item_ids": ["x"]}, "item_ids"),
        ("similar", {"item_id": "i1", "n": "3"}, "n"),
        ("record_events", {"events": []}, "events"),
        (
            "record_events",
            {"events": [{"user_id": "u", "item_id": "i", "event_type": "v", "timestamp": 2e12}]},
            "events.0",
        ),
    ],
)
async def test_bad_input_is_refused_with_the_field_named(
    recommender: Recommender, operation: str, body: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await getattr(recommender, operation)(body)
    assert any(name.startswith(field) for name, _ in refused.value.errors), refused.value.errors


async def test_similar_to_an_unknown_item_is_not_found(recommender: Recommender) -> None:
    with pytest.raises(UnknownItem, match="nonsense"):
        await recommender.similar({"item_id": "nonsense"})


async def test_seeding_twice_adds_nothing(artifact: Artifact, store: MemoryStore) -> None:
    before = len((await store.histories(["u1"])).events(0))
    await seed(store, artifact)
    assert len((await store.histories(["u1"])).events(0)) == before > 10


async def test_history_shows_the_newest_first_with_titles(recommender: Recommender, store: MemoryStore) -> None:
    await store.record([Event("e", "u1", "i5", "like", 1.9e9), Event("f", "u1", "gone", "like", 1.95e9)])
    newest = (await recommender.history("u1", 2))[:2]
    assert [event["item_id"] for event in newest] == ["gone", "i5"]
    assert newest[0]["metadata"] == {}
    assert newest[1]["metadata"]["title"] == "Title 5"


class SlowStore(MemoryStore):
    """Writes wait until they may go on."""

    def __init__(self) -> None:
        super().__init__(StoreConfig(write_timeout_ms=60_000))
        self.may_write = asyncio.Event()

    async def record(self, events: Sequence[Event]) -> int:
        await self.may_write.wait()
        return await super().record(events)


async def test_a_flood_of_events_is_refused_at_its_limit_while_recommendations_are_answered(
    in_process: Callable[..., Recommender],
) -> None:
    store = SlowStore()
    recommender = in_process(store, FunnelConfig(limits=LimitsConfig(events=2)))
    body = {"events": [{"user_id": "u1", "item_id": "i1", "event_type": "view"}]}
    flood = [asyncio.ensure_future(recommender.record_events(body)) for _ in range(500)]
    answer = await recommender.recommend({"user_id": "u1", "deadline_ms": 20_000})
    assert answer["degraded"] == []
    store.may_write.set()
    results = await asyncio.gather(*flood, return_exceptions=True)
    assert sum(isinstance(result, Overloaded) for result in results) == 498
    text = (await recommender.metrics()).decode()
    assert 'rayfunnel_shed_total{reason="events"} 498.0' in text
    assert 'rayfunnel_shed_total{reason="queue"} 0.0' in text
    assert recommender.stats()["shed"] == 0, "the autoscaler scales the funnel, which events do not pass"


async def test_similar_is_refused_at_its_limit(in_process: Callable[..., Recommender]) -> None:
    started, may_answer = asyncio.Event(), asyncio.Event()

    async def hangs(deadline: float, batches: Any) -> Any:
        started.set()
        await may_answer.wait()
        raise RuntimeError("no answer is needed")

    recommender = in_process(config=FunnelConfig(limits=LimitsConfig(similar=1)), starts={"similar": hangs})
    first = asyncio.ensure_future(recommender.similar({"item_id": "i1"}))
    await started.wait()
    with pytest.raises(Overloaded):
        await recommender.similar({"item_id": "i1"})
    may_answer.set()
    with pytest.raises(Unavailable):
        await first


async def test_events_are_processed_a_few_at_a_time_in_order_of_arrival(in_process: Callable[..., Recommender]) -> None:
    store = SlowStore()
    recommender = in_process(store, FunnelConfig(limits=LimitsConfig(events_at_a_time=2)))
    order: list[str] = []
    record = store.record

    async def noted(events: Sequence[Event]) -> int:
        order.append(events[0].user_id)
        return await record(events)

    store.record = noted  # type: ignore[method-assign]
    bodies = [{"events": [{"user_id": f"u{n}", "item_id": "i1", "event_type": "view"}]} for n in range(6)]
    calls = [asyncio.ensure_future(recommender.record_events(body)) for body in bodies]
    for _ in range(20):
        await asyncio.sleep(0)
    assert order == ["u0", "u1"]
    store.may_write.set()
    assert [answer["accepted"] for answer in await asyncio.gather(*calls)] == [1] * 6
    assert order == [f"u{n}" for n in range(6)]
