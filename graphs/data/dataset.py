"""Training data: MovieLens, or the user's own Parquet files; checked, indexed, sorted.

    interactions.parquet  user_id, item_id, timestamp; optional weight, event_type
    items.parquet         item_id; optional title; any features: text, list of text, or numbers
    users.parquet         optional: user_id; any features, as for items

Ids are strings; integers become their decimal form. `timestamp` is Unix seconds or an Arrow timestamp. `weight` in
[-1, 1] says how strongly the event speaks for the item; a success has 0.8 or more. Without `weight`, `event_type`
gives it (`events.types` of the configuration). Without both, every event is a success.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deployments.errors import DataError
from deployments.messages import Array, Bools, Floats, Ints, Shorts, Times
from deployments.models.features.history_weights import SUCCESS_THRESHOLD
from deployments.store.event_types import UNTYPED, EventsConfig
from deployments.store.events import seen_until
from graphs.data import movielens
from graphs.data.column_checks import event_types, id_column, sorted_by_id, timestamps, weights

MOVIELENS = "movielens"
INTERACTIONS, ITEMS, USERS = "interactions.parquet", "items.parquet", "users.parquet"


@dataclass(frozen=True, slots=True)
class Interactions:
    """E events, sorted by user, then time, then item id. The store keeps the same order."""

    user_E: Ints
    item_E: Ints
    timestamp_E: Times
    weight_E: Floats
    """Strength: `EventType.strength`, or the event's own weight."""
    type_E: Shorts
    """Position in `Dataset.event_types`."""
    seen_s_E: Times
    """Seconds from the event for which it takes its item out of answers: 0 never, inf always."""
    target_E: Bools
    """Events that the models learn to predict, and that the evaluation judges by."""

    @classmethod
    def untyped(cls, user_E: Ints, item_E: Ints, timestamp_E: Times, weight_E: Floats) -> Interactions:
        """Events without types, as the default of `EventsConfig` takes them: every success is a target, and every
        event takes its item out of answers."""
        return cls(
            user_E,
            item_E,
            timestamp_E,
            weight_E,
            type_E=np.zeros(len(user_E), np.int16),
            seen_s_E=np.full(len(user_E), np.inf),
            target_E=weight_E >= SUCCESS_THRESHOLD,
        )

    @classmethod
    def concat(cls, parts: Sequence[Interactions]) -> Interactions:
        """All events of `parts`, in order."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def __len__(self) -> int:
        return len(self.user_E)

    @property
    def success_E(self) -> Bools:
        """Events that speak for their item."""
        return self.weight_E >= SUCCESS_THRESHOLD

    def take(self, rows: Array | slice) -> Interactions:
        """The events that a mask, an index or a slice selects."""
        return Interactions(*(getattr(self, each.name)[rows] for each in fields(self)))

    @property
    def seen_until_E(self) -> Times:
        """Unix seconds until which each event takes its item out of answers: -inf never, inf always."""
        return seen_until(self.timestamp_E, self.seen_s_E)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Interactions over `users` and the rows of `items` (item_id, title, features; sorted by item_id)."""

    name: str
    interactions: Interactions
    users: list[str]
    items: pa.Table
    user_table: pa.Table | None = None
    """user_id and the features of users.parquet; None without that file."""
    event_types: Sequence[str] = (UNTYPED,)
    """Names of the types of the events, lower case."""
    success_types: Sequence[str] = ()
    """Types taken as successes because the data have no event that the configuration calls one."""
    event_ids: pa.Array | None = None
    """Your own ids of the events, text, aligned with `interactions`; None without such a column."""
    own_weight_E: Floats | None = None
    """The weights that the data give, NaN where the type's applies; None without such a column."""
    notes: Sequence[str] = ()
    """One sentence for each thing that was left out, filled in or changed."""

    @property
    def repeats(self) -> bool:
        """Whether an answer may contain items of the user's own history: some event for an item leaves it there."""
        return bool(((self.interactions.seen_s_E < np.inf) & (self.interactions.weight_E > 0)).any())


def load_dataset(data: str, config: EventsConfig | None = None) -> Dataset:
    """Loads `movielens`, or a folder with the Parquet files. `config`: what the types of events mean.

    Raises:
        DataError: naming the file, the column, and what it should be.
    """
    if data == MOVIELENS:
        return from_tables(MOVIELENS, *movielens.tables())
    folder = Path(data)
    interactions, items = _read(folder / INTERACTIONS), _read(folder / ITEMS)
    user_table = _read(folder / USERS) if (folder / USERS).exists() else None
    return from_tables(folder.name, interactions, items, user_table, config)


def from_tables(
    name: str,
    interactions: pa.Table,
    items: pa.Table,
    user_table: pa.Table | None = None,
    config: EventsConfig | None = None,
) -> Dataset:
    """Checks and indexes the tables.

    Raises:
        DataError: as `load_dataset`.
    """
    config = config or EventsConfig()
    items = sorted_by_id(items, ITEMS, "item_id")
    user_ids = id_column(interactions, INTERACTIONS, "user_id")
    users = pc.unique(user_ids).sort()
    item_E = pc.index_in(id_column(interactions, INTERACTIONS, "item_id"), items.column("item_id").combine_chunks())
    if item_E.null_count:
        unknown = interactions.column("item_id").filter(pc.is_null(item_E))[0].as_py()
        raise DataError(f"{INTERACTIONS}: item_id {unknown!r} is not in {ITEMS}; add it there or drop its interactions")
    types, type_E = event_types(interactions, INTERACTIONS)
    kinds = [config.of(name) for name in types]
    own_weight_E = weights(interactions, INTERACTIONS)
    weight_E = np.array([kind.strength for kind in kinds], np.float32)[type_E]
    if own_weight_E is not None:
        weight_E = np.where(np.isnan(own_weight_E), weight_E, own_weight_E)
    if config.target:
        target_E = np.array([config.is_target(name) for name in types])[type_E]
    else:
        target_E = weight_E >= SUCCESS_THRESHOLD
    events = Interactions(
        user_E=pc.index_in(user_ids, users).to_numpy().astype(np.int32),
        item_E=item_E.to_numpy().astype(np.int32),
        timestamp_E=timestamps(interactions, INTERACTIONS),
        weight_E=weight_E,
        type_E=type_E,
        seen_s_E=np.array([kind.seen_s for kind in kinds])[type_E],
        target_E=target_E,
    )
    if not len(events):
        raise DataError(f"{INTERACTIONS} has no rows; there is nothing to train on")
    order = np.lexsort((events.item_E, events.timestamp_E, events.user_E))
    return Dataset(
        name=name,
        interactions=events.take(order),
        own_weight_E=None if own_weight_E is None else own_weight_E[order],
        users=users.to_pylist(),
        items=items,
        event_types=types,
        user_table=None if user_table is None else sorted_by_id(user_table, USERS, "user_id"),
    )


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; --data takes `movielens` or a folder that holds it") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None
