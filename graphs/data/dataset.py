"""Training data: MovieLens, or the user's own Parquet files; checked, indexed, sorted.

    interactions.parquet  user_id, item_id, timestamp; optional weight, event_type
    items.parquet         item_id; optional title; any features: text, list of text, or numbers
    users.parquet         optional: user_id; any features, as for items

Ids are strings; integers become their decimal form. `timestamp` is Unix seconds or an Arrow timestamp. `weight` in
[-1, 1] says how strongly the event speaks for the item; a success has 0.8 or more. Without `weight`, `event_type`
gives it (the store's `event_weights`). Without both, every event is a success.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deployments.errors import DataError
from deployments.messages import Array, Bools, Floats, Ints, Times
from deployments.models.features.history_weights import SUCCESS_THRESHOLD
from deployments.store.base import StoreConfig
from graphs.data import movielens
from graphs.data.column_checks import id_column, sorted_by_id, timestamps, weights

MOVIELENS = "movielens"
INTERACTIONS, ITEMS, USERS = "interactions.parquet", "items.parquet", "users.parquet"


@dataclass(frozen=True, slots=True)
class Interactions:
    """E events, sorted by user, then time, then item id. The store keeps the same order."""

    user_E: Ints
    item_E: Ints
    timestamp_E: Times
    weight_E: Floats

    def __len__(self) -> int:
        return len(self.user_E)

    @property
    def success_E(self) -> Bools:
        """Events that speak for their item."""
        return self.weight_E >= SUCCESS_THRESHOLD

    def take(self, rows: Array) -> Interactions:
        """The events that a mask or an index selects."""
        return Interactions(self.user_E[rows], self.item_E[rows], self.timestamp_E[rows], self.weight_E[rows])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Interactions over `users` and the rows of `items` (item_id, title, features; sorted by item_id)."""

    name: str
    interactions: Interactions
    users: list[str]
    items: pa.Table
    user_table: pa.Table | None = None
    """user_id and the features of users.parquet; None without that file."""


def load_dataset(data: str, store: StoreConfig | None = None) -> Dataset:
    """Loads `movielens`, or a folder with the Parquet files. `store` has the weights of event types.

    Raises:
        DataError: naming the file, the column, and what it should be.
    """
    if data == MOVIELENS:
        return from_tables(MOVIELENS, *movielens.tables())
    folder = Path(data)
    interactions, items = _read(folder / INTERACTIONS), _read(folder / ITEMS)
    user_table = _read(folder / USERS) if (folder / USERS).exists() else None
    return from_tables(folder.name, interactions, items, user_table, store)


def from_tables(
    name: str,
    interactions: pa.Table,
    items: pa.Table,
    user_table: pa.Table | None = None,
    store: StoreConfig | None = None,
) -> Dataset:
    """Checks and indexes the tables.

    Raises:
        DataError: as `load_dataset`.
    """
    store = store or StoreConfig()
    items = sorted_by_id(items, ITEMS, "item_id")
    user_ids = id_column(interactions, INTERACTIONS, "user_id")
    users = pc.unique(user_ids).sort()
    item_E = pc.index_in(id_column(interactions, INTERACTIONS, "item_id"), items.column("item_id").combine_chunks())
    if item_E.null_count:
        unknown = interactions.column("item_id").filter(pc.is_null(item_E))[0].as_py()
        raise DataError(f"{INTERACTIONS}: item_id {unknown!r} is not in {ITEMS}; add it there or drop its interactions")
    events = Interactions(
        user_E=pc.index_in(user_ids, users).to_numpy().astype(np.int32),
        item_E=item_E.to_numpy().astype(np.int32),
        timestamp_E=timestamps(interactions, INTERACTIONS),
        weight_E=weights(interactions, INTERACTIONS, store),
    )
    if not len(events):
        raise DataError(f"{INTERACTIONS} has no rows; there is nothing to train on")
    return Dataset(
        name=name,
        interactions=events.take(np.lexsort((events.item_E, events.timestamp_E, events.user_E))),
        users=users.to_pylist(),
        items=items,
        user_table=None if user_table is None else sorted_by_id(user_table, USERS, "user_id"),
    )


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; --data takes `movielens` or a folder that holds it") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None
