"""Training data: which is refused, and how it is indexed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.errors import DataError
from deployments.store.event_types import EventsConfig
from graphs.data.dataset import MOVIELENS, from_tables, load_dataset
from graphs.data.splits import check_trainable

ITEMS = {"item_id": ["b", "a", "c"], "genre": ["x", "y", None]}
EVENTS = {"user_id": ["u2", "u1", "u1"], "item_id": ["a", "b", "c"], "timestamp": [5, 3, 1]}


def test_events_are_sorted_by_user_time_and_item_and_items_by_id() -> None:
    dataset = from_tables("toy", pa.table(EVENTS), pa.table(ITEMS))
    assert dataset.items.column("item_id").to_pylist() == ["a", "b", "c"]
    assert dataset.users == ["u1", "u2"]
    assert dataset.interactions.user_E.tolist() == [0, 0, 1]
    assert dataset.interactions.item_E.tolist() == [2, 1, 0]
    assert dataset.interactions.success_E.all(), "without weight and event_type every event is a success"


def test_weights_come_from_the_column_or_the_event_type() -> None:
    weighted = from_tables("toy", pa.table(EVENTS | {"weight": [0.5, -1.0, 1.0]}), pa.table(ITEMS))
    assert weighted.interactions.weight_E.tolist() == [1.0, -1.0, 0.5]
    typed = from_tables("toy", pa.table(EVENTS | {"event_type": ["like", "dislike", "view"]}), pa.table(ITEMS))
    np.testing.assert_allclose(typed.interactions.weight_E, [0.4, -0.5, 1.0])


def test_integer_ids_and_arrow_timestamps_are_taken() -> None:
    events = pa.table(
        {"user_id": [7], "item_id": [1], "timestamp": pa.array([1_500_000], pa.timestamp("ms"))},
    )
    dataset = from_tables("toy", events, pa.table({"item_id": [1]}))
    assert dataset.users == ["7"]
    assert dataset.interactions.timestamp_E.tolist() == [1500.0]


@pytest.mark.parametrize(
    ("events", "items", "sentence"),
    [
        ({"user_id": None}, {}, "interactions.parquet: column user_id is missing"),
        ({"timestamp": None}, {}, "interactions.parquet: column timestamp is missing; it should hold Unix seconds"),
        ({"timestamp": ["a", "b", "c"]}, {}, "column timestamp is string; it should hold Unix seconds"),
        ({"timestamp": [1.0, float("nan"), 2.0]}, {}, "column timestamp holds NaN"),
        ({"user_id": ["u", None, "v"]}, {}, "column user_id has 1 empty values"),
        ({"user_id": [1.5, 2.5, 3.5]}, {}, "column user_id is double; it should hold ids"),
        ({"weight": [5.0, 1.0, 1.0]}, {}, "column weight reaches 5; it should hold numbers in \\[-1, 1\\]"),
        ({"item_id": ["a", "b", "z"]}, {}, "item_id 'z' is not in items.parquet"),
        ({}, {"item_id": None}, "items.parquet: column item_id is missing"),
        ({}, {"item_id": ["a", "a", "b"]}, "item_id must be unique"),
    ],
)
def test_unusable_data_is_refused_naming_file_column_and_remedy(
    events: dict[str, Any], items: dict[str, Any], sentence: str
) -> None:
    tables = [
        {k: v for k, v in (base | change).items() if v is not None}
        for base, change in ((EVENTS, events), (ITEMS, items))
    ]
    with pytest.raises(DataError, match=sentence):
        from_tables("toy", pa.table(tables[0]), pa.table(tables[1]))


def test_a_folder_without_the_files_or_with_broken_ones_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"interactions.parquet does not exist; --data takes `movielens` or a folder"):
        load_dataset(str(tmp_path))
    (tmp_path / "interactions.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        load_dataset(str(tmp_path))
    pq.write_table(pa.table(EVENTS).slice(0, 0), tmp_path / "interactions.parquet")
    pq.write_table(pa.table(ITEMS), tmp_path / "items.parquet")
    with pytest.raises(DataError, match="has no rows"):
        load_dataset(str(tmp_path))


def test_movielens_is_complete() -> None:
    dataset = load_dataset(MOVIELENS)
    assert (len(dataset.interactions), len(dataset.users), len(dataset.items)) == (100_004, 671, 9_066)
    assert dataset.interactions.success_E.mean() == pytest.approx(0.516, abs=0.01), "ratings of 4 and more"


def test_users_parquet_is_checked_and_features_must_be_text_or_numbers() -> None:
    users = pa.table({"user_id": ["u2", "u9"], "age": [30, 40]})
    dataset = from_tables("toy", pa.table(EVENTS), pa.table(ITEMS), users)
    assert dataset.user_table is not None
    assert dataset.user_table.column("user_id").to_pylist() == ["u2", "u9"]
    with pytest.raises(DataError, match=r"users.parquet: user_id must be unique"):
        from_tables("toy", pa.table(EVENTS), pa.table(ITEMS), pa.table({"user_id": ["u", "u"]}))
    with pytest.raises(DataError, match=r"items.parquet: column when is timestamp.*; it should hold text"):
        from_tables("toy", pa.table(EVENTS), pa.table(ITEMS | {"when": pa.array([0, 1, 2], pa.timestamp("s"))}))


def test_milliseconds_control_characters_and_too_little_data_are_refused() -> None:
    with pytest.raises(DataError, match=r"column timestamp holds 1700000000000; give Unix seconds"):
        from_tables("toy", pa.table(EVENTS | {"timestamp": [1.7e12, 1.0, 2.0]}), pa.table(ITEMS))
    with pytest.raises(DataError, match=r"column item_id holds ids with control characters"):
        from_tables("toy", pa.table(EVENTS), pa.table({"item_id": ["a", "b", "c\x00"]}))
    with pytest.raises(DataError, match=r"items.parquet has 3 items; it takes 10"):
        check_trainable(from_tables("toy", pa.table(EVENTS), pa.table(ITEMS)), 3)
    many = pa.table({"item_id": [str(i) for i in range(20)]})
    with pytest.raises(DataError, match=r"n_candidates \(300\) must not be more"):
        check_trainable(from_tables("toy", pa.table(EVENTS | {"item_id": ["1", "2", "3"]}), many), 300)
    with pytest.raises(DataError, match=r"0 users have 5 or more successes .*; it takes 10"):
        check_trainable(from_tables("toy", pa.table(EVENTS | {"item_id": ["1", "2", "3"]}), many), 20)


def test_event_types_weigh_what_the_config_says() -> None:
    events = pa.table(EVENTS | {"event_type": ["play", "play", "view"]})
    dataset = from_tables("toy", events, pa.table(ITEMS), config=EventsConfig(types={"play": {"weight": 1.0}}))
    np.testing.assert_allclose(dataset.interactions.weight_E, [0.4, 1.0, 1.0])
    assert dataset.interactions.target_E.tolist() == [False, True, True]
    assert [dataset.event_types[code] for code in dataset.interactions.type_E] == ["view", "play", "play"]
