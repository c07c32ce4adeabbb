"""Whatever a table holds, loading it gives a data set or sentences: never a traceback."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deployments.errors import DataError
from deployments.store.event_types import EventsConfig
from graphs.config import RecommenderArgs
from graphs.data.data_file import DataConfig, Rating
from graphs.data.dataset import Dataset, from_tables
from graphs.data.profile import profile
from graphs.data.training_checks import check_trainable
from tests.support.arrow_columns import EXAMPLES, TEXT, TYPES, columns

ROWS = 4
GOOD = {
    "user_id": pa.chunked_array([["u", "u", "v", "w"]]),
    "item_id": pa.chunked_array([["a", "b", "a", "c"]]),
    "timestamp": pa.chunked_array([[1.7e9, 1.8e9, 1.7e9, 1.7e9]]),
}
NORMAL = (
    r"string|bool|int64|double|date32\[day\]|timestamp\[us, tz=UTC\]|time\d\d\[.*\]|duration\[.*\]"
    r"|list<item: (string|int64|float)>"
)


def check(
    interactions: dict[str, pa.ChunkedArray],
    items: dict[str, pa.ChunkedArray] | None = None,
    users: dict[str, pa.ChunkedArray] | None = None,
    config: DataConfig | None = None,
) -> Dataset | None:
    """Loads the tables, and looks at the result as training does."""
    tables = [None if each is None else pa.table(each) for each in (interactions, items, users)]
    assert tables[0] is not None
    try:
        dataset = from_tables("any", tables[0], tables[1], tables[2], EventsConfig(), config)
    except DataError:
        return None
    events = dataset.interactions
    assert np.isfinite(events.timestamp_E).all()
    assert (np.abs(events.weight_E) <= 1).all()
    assert len(set(dataset.users)) == len(dataset.users)
    assert dataset.items.column("item_id").to_pylist() == sorted(set(dataset.items.column("item_id").to_pylist()))
    for table in (dataset.items, dataset.user_table):
        if table is not None:
            table.validate(full=True)
            assert all(re.fullmatch(NORMAL, str(each.type)) for each in table.schema)
    profile(dataset, EventsConfig())
    with pytest.raises(DataError, match="it takes 10"):
        check_trainable(dataset, RecommenderArgs(artifact=""))
    return dataset


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from(["user_id", "item_id", "timestamp", "event_type", "event_id", "weight", "other"]))
def test_any_column_of_the_events_gives_a_data_set_or_a_sentence(data: st.DataObject, name: str) -> None:
    check({**GOOD, name: data.draw(columns(ROWS))})


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_column_of_ratings_gives_a_data_set_or_a_sentence(data: st.DataObject) -> None:
    rating = Rating(column="stars", success_from=data.draw(st.floats(allow_nan=False, allow_infinity=False)))
    check({**GOOD, "stars": data.draw(columns(ROWS))}, config=DataConfig(weight=rating))


@settings(deadline=None, max_examples=300)
@given(st.data(), st.sampled_from(["title", "item_id", "feature", "popularity", "__index_level_0__", "Unnamed: 0", ""]))
def test_any_column_of_the_items_gives_a_data_set_or_a_sentence(data: st.DataObject, name: str) -> None:
    check(GOOD, {"item_id": pa.chunked_array([["c", "b", "a", "z"]]), name: data.draw(columns(ROWS))})


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_any_column_of_the_users_gives_a_data_set_or_a_sentence(data: st.DataObject) -> None:
    users = {"user_id": pa.chunked_array([["w", "u", "y", "z"]]), "feature": data.draw(columns(ROWS))}
    check(GOOD, None, users)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.integers(0, 3), st.lists(TEXT, unique=True, max_size=4))
def test_any_table_gives_a_data_set_or_a_sentence(data: st.DataObject, rows: int, names: list[str]) -> None:
    made = {
        name: data.draw(columns(rows))
        for name in [*names, *data.draw(st.sets(st.sampled_from([*GOOD, "weight", "event_type"])))]
    }
    check(made, made)


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_every_type_of_feature_is_read_or_named_as_left_out(kind: str) -> None:
    @settings(deadline=None, max_examples=5)
    @given(columns(ROWS, kind))
    def loads(column: pa.ChunkedArray) -> None:
        dataset = check(GOOD, {"item_id": pa.chunked_array([["a", "b", "c", "d"]]), "feature": column})
        assert dataset is not None
        left_out = any("items.parquet: left out: feature (" in note for note in dataset.notes)
        assert left_out != ("feature" in dataset.items.column_names)

    loads()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("uv"), st.sampled_from("ab"), st.integers(0, 9)), min_size=1, max_size=60))
@example([("u", "a", 1)] * 30)
def test_users_who_repeat_a_handful_of_items_load(rows: list[tuple[str, str, int]]) -> None:
    users, items, times = zip(*rows, strict=True)
    dataset = check(
        {name: pa.chunked_array([list(each)])
         for name, each in {"user_id": users, "item_id": items, "timestamp": times}.items()}
    )  # fmt: skip
    assert dataset is not None
    assert len(dataset.interactions) == len(set(rows))


@pytest.mark.parametrize("name", EXAMPLES)
def test_ids_of_every_usual_type_are_taken_as_text(name: str) -> None:
    array, expected = EXAMPLES[name]
    rows = len(array)
    dataset = check(
        {"user_id": pa.chunked_array([array]), "item_id": pa.chunked_array([array]),
         "timestamp": pa.chunked_array([[1.7e9] * rows])}
    )  # fmt: skip
    assert dataset is not None
    assert dataset.users == sorted(expected)
    assert dataset.items.column("item_id").to_pylist() == sorted(expected)
