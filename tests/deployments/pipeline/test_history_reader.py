"""The history reader: what it holds is never older than what the store has."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import pytest

from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from deployments.messages import HistoryBatch
from deployments.models.features.user_features import UserFeatures
from deployments.pipeline.batch import PendingRequest
from deployments.pipeline.history_reader import HistoryReader
from deployments.pipeline.request import Query
from deployments.store.base import StoreConfig
from deployments.store.event_types import EventsConfig
from deployments.store.events import Event, Histories
from deployments.store.memory import MemoryStore

USERS = [f"u{n}" for n in range(6)]


class Watched(MemoryStore):
    """Notes whose histories came."""

    def __init__(self) -> None:
        super().__init__(StoreConfig())
        self.came: list[list[str]] = []

    async def histories(
        self, user_ids: Sequence[str], keys: Sequence[str] = (), held: Sequence[bytes] = ()
    ) -> Histories:
        found = await super().histories(user_ids, keys, held)
        self.came.append(list(found.user_ids))
        return found


def reader(artifact: Artifact, store: MemoryStore, held_events: int) -> HistoryReader:
    config = StoreConfig(held_events=held_events)
    catalogue, features = Catalogue.load(artifact), UserFeatures(artifact)
    return HistoryReader(store, config, EventsConfig(), catalogue, features, artifact.model_version, None)


async def read(of: HistoryReader, users: Sequence[str]) -> HistoryBatch:
    return await of([PendingRequest(Query(user, 10, time.time() + 60)) for user in users])


def event(user: str, number: int) -> Event:
    return Event(f"e{number}", user, f"i{number % 20 + 1}", "like", float(number))


async def test_a_history_comes_once_and_again_after_it_has_changed(artifact: Artifact) -> None:
    store = Watched()
    await store.record([event("u1", 1), event("u2", 2)])
    one, other = (reader(artifact, store, 10_000) for _ in range(2))
    first = await read(one, ["u1", "u2", "nobody"])
    again = await read(one, ["u2", "u1", "nobody"])
    assert again.item_BH.tolist() == first.item_BH[[1, 0, 2]].tolist()
    await store.record([event("u1", 3)])
    assert (await read(one, ["u1", "u2"])).timestamp_BH.tolist() == [[1.0, 3.0], [2.0, 0.0]]
    assert (await read(other, ["u1"])).timestamp_BH.tolist() == [[1.0, 3.0]]
    assert store.came == [["u1", "u2", "nobody"], ["nobody"], ["u1"], ["u1"]]


@pytest.mark.parametrize("held_events", [0, 70, 150, 10_000])
async def test_what_is_held_makes_no_difference(artifact: Artifact, held_events: int) -> None:
    rng, store = random.Random(held_events), Watched()
    readers = [reader(artifact, store, held_events) for _ in range(2)]
    for number in range(60):
        if rng.random() < 0.5:
            await store.record([event(rng.choice(USERS), number)])
        users = rng.choices(USERS, k=rng.randint(1, 5))
        found, wanted = await read(rng.choice(readers), users), await read(reader(artifact, store, 0), users)
        for name, _ in HistoryBatch._columns():
            assert np.array_equal(getattr(found, name), getattr(wanted, name), equal_nan=True), name
    asked, came = sum(map(len, store.came[1::2])), sum(map(len, store.came[::2]))
    assert (came == asked) if held_events == 0 else (came < asked)


async def test_the_oldest_are_let_go_and_what_does_not_fit_is_not_held(artifact: Artifact) -> None:
    store = Watched()
    await store.record([event("long", n) for n in range(100)])
    await store.record([event(user, n) for n, user in enumerate(("u1", "u2", "u3"))])
    small = reader(artifact, store, 140)  # two users with an event each
    for users in (["long"], ["long"], ["u1"], ["u2"], ["u1"], ["u3"], ["u2"], ["u3"]):
        await read(small, users)
    assert store.came == [["long"], ["long"], ["u1"], ["u2"], [], ["u3"], ["u2"], []]
