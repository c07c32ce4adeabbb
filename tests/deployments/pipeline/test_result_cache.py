"""The candidate cache and joined requests, over the real funnel in one process: answers never depend on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deployments.api.operations import Recommender
from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from deployments.assembly import FunnelConfig
from deployments.errors import StageFailed
from deployments.messages import Batch, Filter, HistoryBatch
from deployments.pipeline.batcher import BatcherConfig
from deployments.pipeline.request import Query
from deployments.pipeline.result_cache import CacheConfig, ResultCache
from deployments.pipeline.stage_client import Batches, Start, local
from deployments.stages.candidates import CandidateGenerator
from deployments.stages.profile import ProfileConfig, Profiles
from deployments.stages.scoring import Scorer
from deployments.store.base import StoreConfig
from deployments.store.memory import MemoryStore
from tests.support.small_dataset import small_args

Build = Callable[..., Recommender]
CACHING = FunnelConfig(cache=CacheConfig(candidates_ttl_s=60))


class Counting:
    """A real stage; `rows` of each call. It fails while `broken`."""

    def __init__(self, stage: Callable[..., Batch]) -> None:
        self.rows: list[int] = []
        self.broken = False
        self.start: Start = local(self._call, 4)
        self._stage = stage

    def _call(self, *batches: Batch) -> Batch:
        if self.broken:
            raise ZeroDivisionError("a bug in the stage")
        self.rows.append(len(batches[0]))
        return self._stage(*batches)


@pytest.fixture
def counting(artifact: Artifact) -> Counting:
    return Counting(CandidateGenerator(artifact, small_args("").stages.candidates.config))


@pytest.fixture
def scorer(artifact: Artifact) -> Counting:
    return Counting(Scorer(artifact, small_args("").stages.scoring.config))


def ask(recommender: Recommender, user: str, **fields: Any) -> Any:
    """One request, patient enough for any machine."""
    return recommender.recommend({"user_id": user, "deadline_ms": 20_000} | fields)


def content(answer: dict[str, Any]) -> list[tuple[str, float, str]]:
    """What of an answer must not depend on the cache."""
    assert answer["degraded"] == []
    return [(item["item_id"], round(item["score"], 4), item["source"]) for item in answer["items"]]


async def settled(recommender: Recommender) -> None:
    """Returns once what is to be kept is kept."""
    await asyncio.sleep(0.05)


REQUESTS: list[dict[str, Any]] = [
    {},
    {"n": 3},
    {"n": 100},
    {"exclude_ids": ["i1", "i5"]},
    {"filters": {"genres": ["Comedy"]}},
    {"filters": {"genres": ["Drama"], "year": {"gte": 1990}}},
]


async def test_answers_are_the_same_with_and_without_cache(
    in_process: Build, store: MemoryStore, counting: Counting, scorer: Counting
) -> None:
    batching = BatcherConfig(in_flight=1)  # the same requests travel together with and without: sums round alike
    plain = in_process(store, FunnelConfig(batcher=batching))
    config = CACHING.model_copy(update={"batcher": batching})
    caching = in_process(store, config, starts={"candidates": counting.start, "scoring": scorer.start})
    rng = np.random.default_rng(3)
    for _ in range(4):
        asked = [(f"u{rng.integers(0, 12)}", REQUESTS[rng.integers(0, len(REQUESTS))]) for _ in range(40)]
        answers = [asyncio.gather(*(ask(r, user, **fields) for user, fields in asked)) for r in (plain, caching)]
        expected, cached = await asyncio.gather(*answers)
        assert [content(a) for a in cached] == [content(a) for a in expected]
        await settled(caching)
    assert 0 < sum(counting.rows) < 100, "of 160 requests many were hits"
    assert scorer.rows == counting.rows, "those that were not"


async def test_a_user_who_asks_again_skips_the_candidate_stage_until_an_event(
    in_process: Build, store: MemoryStore, counting: Counting
) -> None:
    caching = in_process(store, CACHING, starts={"candidates": counting.start})
    first = await ask(caching, "u1")
    await settled(caching)
    assert content(await ask(caching, "u1")) == content(first)
    assert counting.rows == [1]

    seen = first["items"][0]["item_id"]
    await caching.record_events({"events": [{"user_id": "u1", "item_id": seen, "event_type": "purchase"}]})
    after = await ask(caching, "u1")
    assert counting.rows == [1, 1]
    assert seen not in [item["item_id"] for item in after["items"]]
    assert content(after) == content(await ask(in_process(store), "u1"))
    assert content(await ask(caching, "u2")) == content(await ask(in_process(store), "u2")), "others are not touched"


async def test_who_asks_again_skips_the_scoring_stage_too_beside_others_who_do_not(
    in_process: Build, store: MemoryStore, counting: Counting, scorer: Counting
) -> None:
    caching = in_process(store, CACHING, starts={"candidates": counting.start, "scoring": scorer.start})
    await asyncio.gather(*(ask(caching, user, n=n) for user, n in (("u1", 100), ("u2", 3))))
    await settled(caching)
    asked = [("u3", 100), ("u1", 100), ("u4", 3), ("u2", 3)]
    answers = await asyncio.gather(*(ask(caching, user, n=n) for user, n in asked))
    alone = [await ask(in_process(store), user, n=n) for user, n in asked]
    assert [content(answer) for answer in answers] == [content(answer) for answer in alone]
    assert scorer.rows == [2, 2]
    await caching.record_events({"events": [{"user_id": "u1", "item_id": "i1", "event_type": "view"}]})
    assert content(await ask(caching, "u1", n=100)) == content(await ask(in_process(store), "u1", n=100))
    assert scorer.rows == [2, 2, 1]


async def test_candidates_are_kept_without_scores_where_those_are_not_wanted_or_not_to_be_had(
    in_process: Build, store: MemoryStore, counting: Counting, scorer: Counting
) -> None:
    starts = {"candidates": counting.start, "scoring": scorer.start}
    unwanted = in_process(store, FunnelConfig(cache=CacheConfig(candidates_ttl_s=60, scores=False)), starts=starts)
    for _ in range(2):
        assert content(await ask(unwanted, "u1")) == content(await ask(in_process(store), "u1"))
        await settled(unwanted)
    assert (counting.rows, scorer.rows) == ([1], [1, 1])

    caching = in_process(store, CACHING, starts=starts)
    scorer.broken = True
    assert (await ask(caching, "u2"))["degraded"] == ["scoring:error"]
    await settled(caching)
    scorer.broken = False
    assert content(await ask(caching, "u2")) == content(await ask(in_process(store), "u2"))
    assert (counting.rows, scorer.rows) == ([1, 1], [1, 1, 1])


async def test_while_scoring_fails_those_whose_scores_are_known_are_ordered_by_them(
    in_process: Build, store: MemoryStore, scorer: Counting
) -> None:
    caching = in_process(store, CACHING, starts={"scoring": scorer.start})
    before = await ask(caching, "u1")
    await settled(caching)
    scorer.broken = True
    again, other = await asyncio.gather(ask(caching, "u1"), ask(caching, "u2"))
    assert other["degraded"] == again["degraded"] == ["scoring:error"], "one batch"
    assert again["items"] == before["items"]
    assert content(await ask(caching, "u1")) == content(before), "alone it has no need of the stage"


async def test_entries_that_wait_for_a_slow_store_are_written_together_up_to_a_bound(
    in_process: Build, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    let_go = asyncio.Event()

    async def slow(entries: dict[str, bytes], ttl_s: float) -> None:
        written.append(len(entries))
        await let_go.wait()

    monkeypatch.setattr(store, "cache", slow)
    monkeypatch.setattr("deployments.pipeline.result_cache.MOST_WAITING", 3)
    caching = in_process(store, CACHING)
    for user in range(6):
        await ask(caching, f"u{user}")
    let_go.set()
    await settled(caching)
    assert written == [1, 3], "two were left out"


async def test_what_was_made_of_a_fallback_is_not_kept(
    in_process: Build, store: MemoryStore, counting: Counting, artifact: Artifact
) -> None:
    profiles = Profiles(artifact, ProfileConfig())
    broken = [True]

    def stage(histories: HistoryBatch) -> Batch:
        if broken[0]:
            raise ZeroDivisionError("a bug in the stage")
        return profiles(histories)

    caching = in_process(store, CACHING, starts={"candidates": counting.start, "profile": local(stage, 1)})
    assert (await ask(caching, "u1"))["degraded"] == ["profile:error"]
    await settled(caching)
    broken[0] = False
    assert content(await ask(caching, "u1")) == content(await ask(in_process(store), "u1"))
    assert counting.rows == [1, 1]


async def test_entries_expire(in_process: Build, store: MemoryStore, counting: Counting) -> None:
    config = FunnelConfig(cache=CacheConfig(candidates_ttl_s=0.1))
    caching = in_process(store, config, starts={"candidates": counting.start})
    await ask(caching, "u1")
    await asyncio.sleep(0.2)
    await ask(caching, "u1")
    assert counting.rows == [1, 1]


async def test_a_store_that_keeps_nothing_changes_no_answer(
    in_process: Build, store: MemoryStore, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deployments.errors import StoreUnavailable

    async def refuse(*_: object) -> None:
        raise StoreUnavailable("out of memory")

    monkeypatch.setattr(store, "cache", refuse)
    caching = in_process(store, CACHING, starts={"candidates": counting.start})
    for _ in range(2):
        assert content(await ask(caching, "u1")) == content(await ask(in_process(store), "u1"))
        await settled(caching)
    assert counting.rows == [1, 1]


def test_the_key_tells_apart_all_that_candidates_depend_on() -> None:
    def key(version: str = "m", scope: str = "s", **fields: Any) -> str:
        query = Query(**{"user_id": "u", "n": 10, "deadline": 1.0} | fields)
        return ResultCache(MemoryStore(StoreConfig()), CacheConfig(), version, scope, ()).key(query)

    same = key()
    assert key(deadline=9.0) == same
    others = [
        key(version="m2"),
        key(scope="s2"),
        key(user_id="v"),
        key(n=11),
        key(excluded=np.array([3], np.int32)),
        key(filter=Filter(one_of=(("genres", ("Drama",)),))),
        key(filter=Filter(between=(("year", (1990.0, 2000.0)),))),
    ]
    assert len({same, *others}) == 1 + len(others)
    assert key(given=np.array([1], np.int32)) == ""


class Gate:
    """A candidate stage that waits until it is let go, then works."""

    def __init__(self, counting: Counting) -> None:
        self.open = asyncio.Event()
        self._counting = counting

    async def __call__(self, deadline: float, batches: Batches) -> Batch:
        await self.open.wait()
        return await self._counting.start(deadline, batches)


async def test_equal_requests_in_the_queue_travel_once_and_each_gets_its_answer(
    in_process: Build, store: MemoryStore, counting: Counting
) -> None:
    gate = Gate(counting)
    config = FunnelConfig(batcher=BatcherConfig(in_flight=1))
    recommender = in_process(store, config, starts={"candidates": gate})
    first = asyncio.ensure_future(ask(recommender, "u0"))
    await asyncio.sleep(0.05)  # it is under way; what comes now waits
    equal = [asyncio.ensure_future(ask(recommender, "u1")) for _ in range(5)]
    other = [asyncio.ensure_future(ask(recommender, "u1", n=3)), asyncio.ensure_future(ask(recommender, "u2"))]
    await asyncio.sleep(0.05)
    equal[0].cancel()  # the one that the others joined
    await asyncio.sleep(0)
    gate.open.set()
    answers = await asyncio.gather(first, *equal[1:], *other)
    assert counting.rows == [1, 3], "u1, u1 with n=3, u2"
    assert len({a["request_id"] for a in answers}) == len(answers)
    assert len({repr(content(a)) for a in answers[1:5]}) == 1
    assert content(answers[1]) == content(await ask(in_process(store), "u1"))


async def test_equal_requests_whose_callers_leave_together_are_all_dropped(
    in_process: Build, store: MemoryStore, counting: Counting
) -> None:
    gate = Gate(counting)
    recommender = in_process(store, FunnelConfig(batcher=BatcherConfig(in_flight=1)), starts={"candidates": gate})
    first = asyncio.ensure_future(ask(recommender, "u0"))
    await asyncio.sleep(0.05)
    equal = [asyncio.ensure_future(ask(recommender, "u1")) for _ in range(4)]
    await asyncio.sleep(0.05)
    for call in equal:
        call.cancel()
    await asyncio.wait(equal)
    assert all(call.cancelled() for call in equal)
    gate.open.set()
    await first
    await ask(recommender, "u2")
    assert counting.rows == [1, 1], "u0, u2"


async def test_a_request_does_not_join_one_that_has_read_its_history_already(
    in_process: Build, store: MemoryStore, counting: Counting, artifact: Artifact
) -> None:
    gate = Gate(counting)
    recommender = in_process(store, starts={"candidates": gate})
    before = asyncio.ensure_future(ask(recommender, "u1"))
    await asyncio.sleep(0.05)
    event = {"user_id": "u1", "item_id": Catalogue.load(artifact).item_ids[0], "event_type": "like"}
    await recommender.record_events({"events": [event]})
    after = asyncio.ensure_future(ask(recommender, "u1"))
    await asyncio.sleep(0.05)
    gate.open.set()
    await before
    assert content(await after) == content(await ask(in_process(store), "u1"))
    assert counting.rows == [1, 1]


async def test_a_hurried_request_is_not_joined_to_a_patient_one(
    in_process: Build, store: MemoryStore, counting: Counting
) -> None:
    async def stuck(deadline: float, batches: Batches) -> Batch:
        await asyncio.sleep(0.5)
        raise StageFailed("candidates", "error", "stuck")

    config = FunnelConfig(batcher=BatcherConfig(in_flight=1))
    recommender = in_process(store, config, starts={"candidates": stuck})
    patient = [asyncio.ensure_future(ask(recommender, user)) for user in ("u0", "u1")]
    await asyncio.sleep(0.02)
    hurried = await recommender.recommend({"user_id": "u1", "deadline_ms": 100})
    assert hurried["degraded"] == ["queue:deadline"]
    assert not any(each.done() for each in patient), "it was answered first"
    await asyncio.gather(*patient)
