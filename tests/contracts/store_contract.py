"""The contract of every store, inherited by the tests of both implementations.

A suite provides the fixture `open_store`: (config fields) → a store over the same, at first empty, data.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from deployments.store.base import Store
from deployments.store.events import Event

OpenStore = Callable[..., Store]


def event(event_id: str, **fields: Any) -> Event:
    """An event with default fields except for its id."""
    return Event(**{"user_id": "u", "item_id": "i", "event_type": "view", "timestamp": 1.0} | fields, event_id=event_id)


async def ids(store: Store, user_id: str = "u") -> list[str]:
    """The ids of a user's events as the store gives them."""
    return list((await store.histories([user_id])).event_ids)


class StoreContract:
    async def test_what_was_recorded_is_read_back_field_by_field(self, open_store: OpenStore) -> None:
        store = open_store()
        plain = Event("e1", "u", "i1", "view", 1_700_000_000.123456)
        full = Event("e2", "u", "größe:1", "like", 1_700_000_001.0, weight=-0.25, request_id="r 1")
        assert await store.record([full, plain]) == 2
        assert (await store.histories(["u"])).events(0) == [plain, full]

    async def test_histories_are_in_the_requested_order_and_unknown_users_are_empty(
        self, open_store: OpenStore
    ) -> None:
        store = open_store()
        await store.record([event("a", user_id="u1"), event("b", user_id="u2"), event("c", user_id="u2")])
        histories = await store.histories(["u2", "nobody", "u1", "u2"])
        assert histories.count_B.tolist() == [2, 0, 1, 2]
        assert list(histories.event_ids) == ["b", "c", "a", "b", "c"]
        assert [e.user_id for e in histories.events(2)] == ["u1"]

    async def test_empty_calls_have_empty_results(self, open_store: OpenStore) -> None:
        store = open_store()
        assert await store.record([]) == 0
        assert len((await store.histories([])).count_B) == 0

    async def test_events_are_ordered_by_time_then_item_then_id(self, open_store: OpenStore) -> None:
        store = open_store()
        wanted = [
            (1.0, "z", "9"),
            (2.0, "a", "2"),
            (2.0, "ab", "1"),
            (2.0, "b", "0"),
            (2.0, "b", "1"),
            (10.0, "a", "3"),
        ]
        await store.record([event(e, timestamp=t, item_id=i) for t, i, e in reversed(wanted)])
        histories = await store.histories(["u"])
        found = list(zip(histories.timestamp_E.tolist(), histories.item_ids, histories.event_ids, strict=True))
        assert found == wanted

    async def test_an_event_sent_again_is_not_stored_again(self, open_store: OpenStore) -> None:
        store = open_store()
        assert await store.record([event("a"), event("a"), event("b")]) == 2
        assert await store.record([event("b"), event("c")]) == 1
        assert await ids(store) == ["a", "b", "c"]

    async def test_an_event_sent_again_with_another_timestamp_keeps_the_first_one(self, open_store: OpenStore) -> None:
        store = open_store()
        await store.record([event("a", timestamp=5.0)])
        assert await store.record([event("a", timestamp=9.0)]) == 0
        assert (await store.histories(["u"])).timestamp_E.tolist() == [5.0]

    async def test_only_the_most_recent_events_are_kept(self, open_store: OpenStore) -> None:
        store = open_store(history_limit=3)
        await store.record([event(str(n), timestamp=n) for n in range(5)])
        assert await ids(store) == ["2", "3", "4"]
        await store.record([event("late", timestamp=2.5), event("too late", timestamp=0.0)])
        assert await ids(store) == ["late", "3", "4"]

    async def test_ties_are_trimmed_in_the_order_they_are_read(self, open_store: OpenStore) -> None:
        store = open_store(history_limit=2)
        await store.record([event("e", item_id=item) for item in ("b", "aaaa", "c", "ab")])
        assert list((await store.histories(["u"])).item_ids) == ["b", "c"]

    @pytest.mark.parametrize("user_id", ["history:u", "u:1", "*", "", "名前 ☃", "a\tb", "\ud800"])
    async def test_any_user_id_has_its_own_history(self, open_store: OpenStore, user_id: str) -> None:
        store = open_store()
        await store.record([event("mine", user_id=user_id), event("other", user_id="u")])
        assert await ids(store, user_id) == ["mine"]

    async def test_a_thousand_events_are_one_call(self, open_store: OpenStore) -> None:
        store = open_store()
        assert await store.record([event(str(n), user_id=f"u{n}") for n in range(1000)]) == 1000
        assert (await store.histories([f"u{n}" for n in range(1000)])).count_B.tolist() == [1] * 1000

    async def test_a_seed_is_loaded_once_per_tag(self, open_store: OpenStore) -> None:
        store = open_store()
        events = [event(str(n), user_id=f"u{n % 7}", timestamp=n) for n in range(2500)]
        assert await store.seed(iter(events), "v1") == 2500
        assert await store.seed([event("not loaded")], "v1") == 0
        assert await store.seed(iter(events), "v2") == 0
        assert (await store.histories([f"u{n}" for n in range(7)])).count_B.sum() == 2500

    async def test_a_seed_of_another_artifact_stores_only_what_is_new(self, open_store: OpenStore) -> None:
        store = open_store()
        first = [event(f"history-{n}.0", timestamp=n, item_id=f"i{n % 3}") for n in range(20)]
        assert await store.seed(first, "v1") == 20
        weighed = [replace(each, weight=0.5, timestamp=each.timestamp + 0.0001) for each in first]
        more = [event("history-30.0", timestamp=30.0, item_id="i0"), event("x", timestamp=40.0)]
        assert await store.seed([*weighed, *more], "v2") == 2
        assert await ids(store) == [e.event_id for e in first] + ["history-30.0", "x"]
        version = (await store.histories(["u"], ["k"])).versions
        assert await store.seed([*first, *more], "v3") == 0
        assert (await store.histories(["u"], ["k"])).versions == version, "caches stay valid"

    async def test_a_seed_does_not_repeat_what_the_api_recorded(self, open_store: OpenStore) -> None:
        store = open_store()
        posted = [
            event("api 1", item_id="a", timestamp=1.0005, event_type="Like", request_id="r"),
            event("api 2", item_id="b", timestamp=2.0),
        ]
        await store.record(posted)
        same = [
            event("history-1.0005", item_id="a", timestamp=1.0005, event_type="like"),
            event("history-1.0005", item_id="a", timestamp=1.0005, event_type="history", weight=0.8),
            event("api 2", item_id="b", timestamp=7.0),
        ]
        assert await store.seed(same, "v1") == 0
        other = [
            event("history-1.0005", item_id="a", timestamp=1.0005, event_type="view"),
            event("history-1.0005", item_id="c", timestamp=1.0005, event_type="like"),
            event("history-1.0025", item_id="a", timestamp=1.0025, event_type="like"),
            event("history-2.0", item_id="b", timestamp=2.0, user_id="another"),
        ]
        assert await store.seed([*same, *other], "v2") == 4

    async def test_events_that_were_seeded_without_types_are_not_seeded_again_with_them(
        self, open_store: OpenStore
    ) -> None:
        store = open_store()
        old = event("history-5.0", timestamp=5.0, event_type="history", weight=0.8)
        await store.seed([old], "old")
        assert await store.seed([event("history-5.0", timestamp=5.0), event("e7", timestamp=5.0)], "new") == 0
        assert (await store.histories(["u"])).events(0) == [old]

    async def test_a_seed_stores_equal_events_of_its_own_once(self, open_store: OpenStore) -> None:
        store = open_store()
        twice = [event("history-5.0", timestamp=5.0), event("history-5.0", timestamp=5.0, weight=0.3)]
        assert await store.seed([*twice, event("e1", timestamp=6.0), event("e1", timestamp=8.0)], "v1") == 2

    async def test_a_full_history_takes_no_older_events_from_a_seed(self, open_store: OpenStore) -> None:
        store = open_store(history_limit=3)
        events = [event(f"history-{n}.0", timestamp=n) for n in range(8)]
        await store.seed(events, "v1")
        assert await ids(store) == ["history-5.0", "history-6.0", "history-7.0"]
        assert await store.seed(events, "v2") == 0
        assert await store.seed([*events, event("new", timestamp=6.5)], "v3") == 1
        assert await ids(store) == ["history-6.0", "new", "history-7.0"]

    async def test_seeds_of_two_artifacts_at_once_store_each_event_once(self, open_store: OpenStore) -> None:
        first, second = open_store(), open_store()
        events = [event(f"history-{n}.0", timestamp=n, user_id=f"u{n % 50}") for n in range(2000)]
        weighed = [replace(each, weight=0.5) for each in events]
        assert sum(await asyncio.gather(first.seed(events, "v1"), second.seed(weighed, "v2"))) == 2000
        assert (await first.histories([f"u{n}" for n in range(50)])).count_B.sum() == 2000

    async def test_events_recorded_during_a_seed_are_kept(self, open_store: OpenStore) -> None:
        seeding, recording = open_store(), open_store()
        events = [event(f"history-{n}.0", timestamp=n, user_id=f"u{n % 3}") for n in range(3000)]

        async def record() -> None:
            for n in range(60):
                await recording.record([event(f"live {n}", timestamp=5000 + n, user_id=f"u{n % 3}")])

        stored, _ = await asyncio.gather(seeding.seed(events, "v1"), record())
        assert stored == 3000
        histories = await seeding.histories(["u0", "u1", "u2"])
        assert sum(each.startswith("live") for each in histories.event_ids) == 60

    async def test_all_histories_have_each_event_of_the_span_once(self, open_store: OpenStore) -> None:
        store = open_store()
        users = [*(f"u{n}" for n in range(700)), "a:b", "名前", "*"]
        await store.record([event(str(t), timestamp=t, user_id=user) for user in users for t in (1.0, 2.0, 3.0)])
        await store.cache({"k": b"v"}, ttl_s=60)
        parts = [part async for part in store.all_histories(1.5, 3.0)]
        found = [
            (each.user_id, each.timestamp)
            for part in parts
            for b in range(len(part.user_ids))
            for each in part.events(b)
        ]
        assert sorted(found) == sorted((user, 2.0) for user in users)
        everything = [part async for part in store.all_histories(-math.inf, math.inf)]
        assert sum(len(part.timestamp_E) for part in everything) == 3 * len(users)

    async def test_two_seeds_at_once_store_each_event_once(self, open_store: OpenStore) -> None:
        first, second = open_store(), open_store()
        events = [event(f"{n:04}", timestamp=n) for n in range(400)]
        assert sum(await asyncio.gather(first.seed(events, "v"), second.seed(events, "v"))) == 400
        assert await ids(first) == [e.event_id for e in events]

    async def test_ping_answers(self, open_store: OpenStore) -> None:
        await open_store().ping()

    async def test_every_recorded_event_changes_the_version_of_its_user_only(self, open_store: OpenStore) -> None:
        store = open_store()
        users, keys = ["u1", "u2"], ["k1", "k2"]
        before = await store.histories(users, keys)
        assert list(before.versions) == [b"", b""]
        await store.record([event("a", user_id="u1"), event("b", user_id="u1")])
        once = await store.histories(users, keys)
        assert once.versions[0] != b""
        assert once.versions[1] == b""
        await store.record([event("c", user_id="u1")])
        twice = await store.histories(users, keys)
        assert twice.versions[0] not in (b"", once.versions[0])
        assert list((await store.histories(users)).versions) == [], "not requested"

    async def test_a_history_whose_version_the_caller_has_is_not_sent_again(self, open_store: OpenStore) -> None:
        store = open_store()
        users = ["u1", "u2", "nobody", "u1"]
        await store.record([event("a", user_id="u1"), event("b", user_id="u2"), event("c", user_id="u2")])
        first = await store.histories(users, caller_versions=[b""] * 4)
        assert (list(first.rows), first.count_B.tolist()) == ([0, 1, 2, 3], [1, 2, 0, 1])
        assert [bool(version) for version in first.versions] == [True, True, False, True]
        known_versions = [first.versions[0], first.versions[1], b"", b""]
        again = await store.histories(users, ["", "", "", ""], known_versions)
        assert (sorted(again.rows), list(again.versions)) == ([2, 3], list(first.versions))
        await store.record([event("d", user_id="u1")])
        changed = await store.histories(users, caller_versions=known_versions)
        by_row = dict(zip(changed.rows, changed.count_B.tolist(), strict=True))
        assert by_row == {0: 2, 2: 0, 3: 2}
        assert (changed.versions[1], changed.versions[0] != first.versions[0]) == (first.versions[1], True)
        assert dict(zip(changed.rows, changed.user_ids, strict=True))[0] == "u1"
        assert list((await store.histories([], caller_versions=[])).rows) == []

    async def test_cache_entries_are_returned_with_the_histories_until_they_expire(self, open_store: OpenStore) -> None:
        store = open_store()
        await store.record([event("a", user_id="u1")])
        await store.cache({"k1": b"\x00one", "k2": b"two"}, ttl_s=60)
        await store.cache({"k2": b"new"}, ttl_s=1)
        found = await store.histories(["u1", "u1", "u2"], ["k1", "k2", ""])
        assert list(found.cached) == [b"\x00one", b"new", None]
        assert list(found.event_ids) == ["a", "a"]
        await asyncio.sleep(1.05)
        assert list((await store.histories(["u1"], ["k2"])).cached) == [None]
        await store.cache({}, ttl_s=1)

    async def test_an_owned_value_passes_to_the_next_owner_and_the_former_one_cannot_change_it(
        self, open_store: OpenStore
    ) -> None:
        old, new = open_store(), open_store()
        assert await old.save_owned("n", "old", b"lost"), "without a claim"
        assert await old.claim("n", "old") == b"lost"
        assert await old.save_owned("n", "old", b"\x00one")
        assert await new.claim("n", "new") == b"\x00one"
        assert not await old.save_owned("n", "old", b"two")
        assert await new.save_owned("n", "new", b"three")
        assert await old.claim("n", "old") == b"three"
        assert await old.claim("another", "old") is None
