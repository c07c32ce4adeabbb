"""Training data: how they are indexed, what is said about them, and that all faults are said at once."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from deployments.errors import DataError
from deployments.store.event_types import EventsConfig
from graphs.data.data_file import DataConfig, Rating
from graphs.data.dataset import MOVIELENS, Dataset, from_tables, load_dataset
from graphs.data.findings import DataFaults

ITEMS = {"item_id": ["b", "a", "c"], "genre": ["x", "y", None]}
EVENTS = {"user_id": ["u2", "u1", "u1"], "item_id": ["a", "b", "c"], "timestamp": [5, 3, 1]}


def loaded(
    events: dict[str, Any] | None = None,
    items: dict[str, Any] | None = None,
    config: EventsConfig | None = None,
    **settings: Any,
) -> Dataset:
    """The toy data set with these columns changed."""
    tables = [
        pa.table({k: v for k, v in (base | (change or {})).items() if v is not None})
        for base, change in ((EVENTS, events), (ITEMS, items))
    ]
    return from_tables("toy", tables[0], tables[1], config=config, data_config=DataConfig(**settings))


def noted(dataset: Dataset, *parts: str) -> bool:
    """Whether one note has all `parts`."""
    return any(all(part in note for part in parts) for note in dataset.notes)


def test_events_are_sorted_by_user_time_and_item_and_items_by_id() -> None:
    dataset = loaded()
    assert dataset.items.column("item_id").to_pylist() == ["a", "b", "c"]
    assert dataset.users == ["u1", "u2"]
    assert dataset.interactions.user_E.tolist() == [0, 0, 1]
    assert dataset.interactions.item_E.tolist() == [2, 1, 0]
    assert dataset.interactions.success_E.all(), "without weight and event_type every event is a success"
    assert dataset.notes[0] == "toy: 3 events of 2 users on 3 items"


def test_movielens_is_complete_and_its_weights_are_its_ratings() -> None:
    dataset = load_dataset(MOVIELENS)
    events = dataset.interactions
    assert (len(events), len(dataset.users), len(dataset.items)) == (100_004, 671, 9_066)
    assert events.success_E.mean() == pytest.approx(0.516, abs=0.01), "ratings of 4 and more"
    assert set(np.unique(events.weight_E)) == set(np.float32(np.arange(0.5, 5.5, 0.5) / 5))


@pytest.mark.parametrize(
    ("events", "items", "sentence"),
    [
        ({"user_id": None}, {}, r"interactions.parquet: column user_id is missing; the file has: item_id, timestamp"),
        ({"timestamp": ["a", "b", "c"]}, {}, "column timestamp holds 'a' in row 0 .*; it should hold times"),
        ({"timestamp": [1.0, float("nan"), 2.0]}, {}, r"column timestamp holds nan in row 1"),
        ({"timestamp": [1, None, 2]}, {}, r"column timestamp has 1 empty value, the first in row 1"),
        ({"timestamp": [1, 2, -3]}, {}, r"column timestamp holds a time before 1970 \(-3 s\) in row 2"),
        ({"timestamp": [1.7e9, 1.7e12, 1.7e9]}, {}, "holds 1700000000000.0 in row 1 .* among seconds; .* time_unit"),
        ({"user_id": ["u", None, "v"]}, {}, r"column user_id has 1 empty value, the first in row 1 .*; fill them in"),
        ({"user_id": ["u", "", "v"]}, {}, r"empty ids in 1 row, the first '' in row 1 .*; the API takes 1 to 256"),
        ({"user_id": ["u", "x" * 257, "v"]}, {}, r"ids of more than 256 characters in 1 row, the first 'xxx.*in row 1"),
        ({"user_id": ["u", "a\tb", "v"]}, {}, r"ids with control characters in 1 row, the first 'a\\tb' in row 1"),
        ({"user_id": [1.5, 2.5, 3.5]}, {}, "column user_id holds 1.5, which is no whole number"),
        ({"user_id": [True, False, True]}, {}, "column user_id is bool; it should hold ids"),
        ({"weight": [5.0, 1.0, 1.0]}, {}, r"weight reaches 5, .* 5 in row 0 .*weight: \{column: weight, success_from"),
        ({"weight": ["a", "b", "c"]}, {}, "column weight is string; it should hold numbers"),
        ({"weight": [1, 2, float("inf")]}, {}, "column weight is infinite in row 2"),
        ({"event_type": [[1], [2], [3]]}, {}, "column event_type is list.*; it should hold types of events"),
        ({"item_id": ["x", "y", "z"]}, {}, r"none of the 3 items of interactions.parquet .*'x' there and 'a' here"),
        ({}, {"item_id": None}, "items.parquet: column item_id is missing; the file has: genre"),
        ({}, {"item_id": ["a", "a", "b"]}, "items.parquet: item_id 'a' has several rows that differ, such as in genre"),
        ({}, {"item_id": ["a", None, "b"]}, r"items.parquet: column item_id has 1 empty value, the first in row 1"),
        ({"user_id": [], "item_id": [], "timestamp": []}, {}, "interactions.parquet has no rows"),
    ],
)
def test_unusable_data_are_refused_naming_file_column_value_row_and_remedy(
    events: dict[str, Any], items: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        loaded(events, items)


def test_all_faults_are_said_at_once() -> None:
    users = pa.table({"user_id": ["u1", "u1"], "age": [1, 2]})
    events = {"user_id": ["", "u", "u"], "item_id": ["a", None, "b"], "weight": [7, 0, 0], "event_type": [[], [], []]}
    with pytest.raises(DataFaults) as refused:
        from_tables("toy", pa.table(events), pa.table({"item_id": ["a\n", "b", "c"]}), users)
    files_and_columns = [
        fault.split(" has ")[0].split(" is ")[0].split(" reaches ")[0] for fault in refused.value.faults
    ]
    assert files_and_columns == [
        "interactions.parquet: column timestamp",
        "interactions.parquet: column user_id",
        "interactions.parquet: column item_id",
        "interactions.parquet: column weight",
        "interactions.parquet: column event_type",
        "items.parquet: column item_id",
        "users.parquet: user_id 'u1'",
    ]


def test_columns_of_one_name_are_refused() -> None:
    twice = pa.Table.from_arrays([pa.array(["a"])] * 2, ["item_id", "item_id"])
    with pytest.raises(DataError, match=r"items.parquet: columns with the same name: item_id; rename them"):
        from_tables("toy", pa.table(EVENTS), twice)


def test_text_that_is_no_utf8_is_named() -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, [*pa.array(["a"]).buffers()[:2], pa.py_buffer(b"\xff")])
    with pytest.raises(DataError, match=r"interactions.parquet: column user_id is damaged"):
        from_tables("toy", pa.table({"user_id": broken, "item_id": ["a"], "timestamp": [1]}))


def test_without_a_file_of_items_the_items_are_those_of_the_events() -> None:
    dataset = from_tables("toy", pa.table(EVENTS))
    assert dataset.items.column_names == ["item_id"]
    assert noted(dataset, "there is no file of items: the 3 items of interactions.parquet are taken, without features")
    empty = from_tables("toy", pa.table(EVENTS), pa.table(ITEMS).slice(0, 0))
    assert noted(empty, "items.parquet has no rows: the 3 items of")


def test_items_that_the_file_lacks_are_kept_without_features() -> None:
    dataset = loaded({"item_id": ["a", "b", "gone"]})
    assert dataset.items.to_pylist()[-1] == {"item_id": "gone", "genre": None}
    assert dataset.items.column("item_id")[int(dataset.interactions.item_E[0])].as_py() == "gone"
    assert noted(dataset, "1 item of 3 in interactions.parquet not in items.parquet, such as 'gone': kept")


def test_equal_rows_of_an_item_are_one() -> None:
    dataset = loaded(None, {"item_id": ["b", "a", "a", "c"], "genre": ["x", "y", "y", None]})
    assert dataset.items.column("item_id").to_pylist() == ["a", "b", "c"]
    assert noted(dataset, "items.parquet: 1 repeated row left out")


def test_repeated_events_are_left_out_and_counted() -> None:
    again = {name: [*values, values[0]] for name, values in EVENTS.items()}
    dataset = loaded(again)
    assert len(dataset.interactions) == 3
    assert noted(dataset, "interactions.parquet: 1 repeated row (the same user, item, type and time) left out")
    typed = loaded(again | {"event_type": ["view", "view", "view", "like"]})
    assert len(typed.interactions) == 4, "another type is another event"


def test_an_event_id_makes_an_event_one() -> None:
    later = {name: [*values, values[0]] for name, values in EVENTS.items()}
    later["timestamp"][3] += 60
    dataset = loaded(later | {"event_id": ["e1", None, "e2", "e1"]})
    assert dataset.event_ids is not None
    assert sorted(dataset.event_ids.to_pylist(), key=str) == [None, "e1", "e2"]
    assert noted(dataset, "1 repeated row (the same user, item, type and time, or event_id) left out")
    again = {name: [*values, values[0]] for name, values in EVENTS.items()}
    assert len(loaded(again | {"event_id": [1, 2, 3, 4]}).interactions) == 3, "of one time, as in the store"


def test_of_a_giant_user_the_newest_events_are_kept() -> None:
    rows = 40
    events = {
        "user_id": ["bot"] * rows + ["u"],
        "item_id": ["a", "b"] * (rows // 2) + ["c"],
        "timestamp": [*range(rows), 7],
    }
    dataset = loaded(events, max_events_per_user=10)
    assert dataset.interactions.timestamp_E.tolist() == [*range(rows - 10, rows), 7]
    assert noted(dataset, "1 user with more than 10 events, such as 'bot' with 40", "max_events_per_user in data.yaml")


def test_times_in_the_future_are_counted_and_taken_as_of_the_newest_other_event() -> None:
    ahead = dt.datetime.now(dt.UTC) + dt.timedelta(days=900)
    dataset = loaded({"timestamp": [ahead.timestamp(), 1.7e9, 1.6e9]})
    assert dataset.interactions.timestamp_E.max() == 1.7e9
    assert noted(
        dataset,
        "1 of 3 events in the future (the first in row 0",
        f"{ahead:%Y-%m-%d}",
        "taken as of the newest other event's time",
    )
    soon = loaded({"timestamp": [time.time() + 30, 1.7e9, 1.6e9]})
    assert not noted(soon, "future")


def test_columns_that_nothing_reads_are_named_with_what_they_might_be() -> None:
    dataset = loaded({"rating": [1, 2, 3], "action": ["a", "b", "c"], "__index_level_0__": [0, 1, 2]})
    assert noted(
        dataset,
        "columns that are not used: rating, action",
        "add --columns event_type=action",
        "weight: {column: rating, success_from: 4}",
    )
    assert noted(dataset, "interactions.parquet: left out: __index_level_0__ (an index of pandas)")


def test_users_without_features_are_counted_and_a_file_of_other_users_is_refused() -> None:
    users = pa.table({"user_id": ["u2", "u9"], "age": [30, 40]})
    dataset = from_tables("toy", pa.table(EVENTS), pa.table(ITEMS), users)
    assert dataset.user_table is not None
    assert dataset.user_table.column("user_id").to_pylist() == ["u2", "u9"]
    assert noted(dataset, "features of users: age; 1 of 2 users have none")
    with pytest.raises(DataError, match=r"users.parquet: none of the 2 users .* 'u1' there and 'x' here"):
        from_tables("toy", pa.table(EVENTS), pa.table(ITEMS), pa.table({"user_id": ["x"], "age": [1]}))


def test_events_of_a_type_mean_what_the_configuration_says() -> None:
    config = EventsConfig(types={"play": {"weight": 1.0}})
    dataset = loaded({"event_type": ["play", "play", "view"]}, config=config)
    np.testing.assert_allclose(dataset.interactions.weight_E, [0.4, 1.0, 1.0])
    assert dataset.interactions.target_E.tolist() == [False, True, True]
    assert [dataset.event_types[code] for code in dataset.interactions.type_E] == ["view", "play", "play"]


def test_users_who_only_repeat_items_may_get_them_again() -> None:
    rows = [(f"u{u}", f"i{k % 3}", 100 * k) for u in range(12) for k in range(12)]
    users, items, times = zip(*rows, strict=True)
    events = {"user_id": users, "item_id": items, "timestamp": times}
    dataset = from_tables("loops", pa.table(events))
    assert dataset.repeated_types == ["history"]
    assert (dataset.interactions.seen_s_E == 0).all()
    assert noted(dataset, "users repeat the same items: 0 users of 12", "items stay in answers after history")
    assert EventsConfig().with_repeats(dataset.repeated_types).of("history").seen == "never"


def test_where_users_repeat_items_an_event_against_one_takes_it_out_of_answers_here_and_online() -> None:
    rows = [(f"u{u}", f"i{k % 3}", 100.0 * k, -0.5 if k == 4 else 0.9) for u in range(12) for k in range(12)]
    users, items, times, weights = zip(*rows, strict=True)
    table = {"user_id": users, "item_id": items, "timestamp": times, "weight": weights}
    dataset = from_tables("loops", pa.table(table))
    events = dataset.interactions
    served = EventsConfig().with_repeats(dataset.repeated_types)
    online = [served.seen_s("history", float(weight)) for weight in events.weight_E]
    assert online == events.seen_s_E.tolist()
    assert set(online) == {0.0, np.inf}


def test_the_target_must_be_among_the_types() -> None:
    with pytest.raises(
        DataError, match=r"no event has the type 'purchase', which events.target .*there are view, like"
    ):
        loaded({"event_type": ["view", "like", "view"]}, config=EventsConfig(target="purchase"))


def test_a_rating_becomes_a_weight() -> None:
    dataset = loaded({"stars": [4, 10, 1]}, weight=Rating(column="stars", success_from=7))
    np.testing.assert_allclose(dataset.interactions.weight_E, [0.1, 1.0, 0.1 + 0.7 * 3 / 6], rtol=1e-6)
    assert noted(dataset, "column stars, from 1 to 10, gives weights from 0.1 to 1; 33% of the events are successes")


def test_ids_are_those_of_a_users_events_on_an_item_and_the_others_are_compared_by_time_and_type() -> None:
    rows = [
        ("ann", "a", 1.0, "order 1"),
        ("ann", "b", 1.0, "order 1"),
        ("bob", "a", 1.0, "order 1"),
        ("ann", "a", 2.0, "order 1"),
        ("ann", "c", 3.0, None),
        ("ann", "c", 3.0, None),
        ("ann", "d", 3.0, None),
    ]
    columns = dict(zip(("user_id", "item_id", "timestamp", "event_id"), zip(*rows, strict=True), strict=True))
    dataset = from_tables("toy", pa.table({name: list(column) for name, column in columns.items()}))
    kept = list(zip(dataset.interactions.timestamp_E.tolist(), dataset.event_ids.to_pylist(), strict=True))
    assert kept == [(1.0, "order 1"), (1.0, "order 1"), (3.0, None), (3.0, None), (1.0, "order 1")]
    assert noted(dataset, "2 repeated rows (the same user, item, type and time, or event_id) left out")
