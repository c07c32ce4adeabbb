"""Histories from offline events."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from deployments.assembly import seed
from deployments.messages import HistoryBatch
from deployments.models.features.schema import Schema
from deployments.models.features.user_features import UserFeatures
from deployments.pipeline.batch import PendingRequest
from deployments.pipeline.history_reader import HistoryReader
from deployments.pipeline.request import Query
from deployments.store.base import StoreConfig
from deployments.store.event_types import EventsConfig
from deployments.store.memory import MemoryStore
from graphs.data.dataset import from_tables, load_dataset
from graphs.data.histories import history_batch, stored_histories
from graphs.evaluation.offline_funnel import OfflineFunnel
from tests.support.interactions import interactions
from tests.support.small_dataset import small_args


def test_offline_histories_are_padded_like_those_of_the_store() -> None:
    events = interactions([(user, item, float(item)) for user in (0, 1) for item in range(5)])
    batch = history_batch(events, [0, 6], [5, 10], np.zeros(2), np.zeros((2, 0), np.float32), "v")
    assert batch.item_BH.tolist() == [[0, 1, 2, 3, 4], [1, 2, 3, 4, -1]]
    assert batch.timestamp_BH[1].tolist() == [1.0, 2.0, 3.0, 4.0, 0.0]
    assert batch.weight_BH[1].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert batch.seen_BH[1].tolist() == [True, True, True, True, False]
    assert batch.model_version == "v"


def test_an_offline_event_is_seen_for_as_long_as_its_type_says() -> None:
    events = interactions([(user, item, float(item)) for user in (0, 1) for item in range(3)])
    events = replace(events, seen_s_E=np.array([0.0, 5.0, np.inf] * 2))
    batch = history_batch(events, [0, 3], [3, 6], np.array([5.9, 6.1]), np.zeros((2, 0), np.float32), "v")
    assert batch.seen_BH.tolist() == [[False, True, True], [False, False, True]]


async def test_the_store_gives_the_histories_that_training_saw(shop_artifact: Artifact, shop_folder: Path) -> None:
    dataset = load_dataset(str(shop_folder))
    store = MemoryStore(StoreConfig())
    await seed(store, shop_artifact)
    users, now = ["u3", "u70", "nobody", "u0"], time.time()
    types = Schema.load(shop_artifact).event_types
    read = HistoryReader(
        store,
        StoreConfig(),
        EventsConfig(),
        Catalogue.load(shop_artifact),
        UserFeatures(shop_artifact),
        shop_artifact.model_version,
        None,
        types,
    )
    served = await read([PendingRequest(Query(user, 10, now + 60)) for user in users])
    rows = [dataset.users.index(user) if user in dataset.users else -1 for user in users]
    user_E = dataset.interactions.user_E
    starts, ends = np.searchsorted(user_E, rows), np.searchsorted(user_E, rows, side="right")
    funnel = OfflineFunnel(shop_artifact, small_args("").stages, dataset.event_types)
    offline = funnel.histories(dataset.interactions, starts.tolist(), ends.tolist(), np.full(4, now), users)
    assert np.bincount(served.type_BY[0][served.item_BH[0] >= 0]).tolist() != [0, 0, 0]
    for name, _ in HistoryBatch._columns():
        rounding = 60 if name == "age_BY" else 0  # the one `now` is later than the other; float32 has steps of 16 s
        np.testing.assert_allclose(getattr(served, name), getattr(offline, name), rtol=0, atol=rounding, err_msg=name)


def test_stored_histories_have_a_weight_only_where_the_data_give_one(shop_folder: Path, dataset_folder: Path) -> None:
    assert stored_histories(load_dataset(str(dataset_folder))).column("weight").null_count == 0
    typed = load_dataset(str(shop_folder))
    table = stored_histories(typed)
    assert table.column("weight").null_count == len(table) == len(typed.interactions)
    assert set(table.column("event_type").to_pylist()) == {"view", "cart", "purchase"}
    mixed = pa.table(
        {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [2.0, 1.0], "event_type": ["like", "view"]}
    ).append_column("weight", pa.array([None, -0.5]))
    dataset = from_tables("toy", mixed, pa.table({"item_id": ["a", "b"]}))
    assert stored_histories(dataset).column("weight").to_pylist() == [-0.5, None]
    assert dataset.interactions.weight_E.tolist() == [-0.5, 1.0]
