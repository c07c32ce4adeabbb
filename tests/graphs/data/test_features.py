"""Features of items and users: which columns are read as what, and which are left out with a reason."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import pyarrow as pa
import pytest

from graphs.data.features import LeftOut, is_index, read_feature, read_titles
from graphs.data.findings import Findings

UTC = dt.UTC
DAY = dt.datetime(2020, 1, 2, tzinfo=UTC)


def read(array: pa.Array) -> tuple[str, list[Any], Findings]:
    """Type, values and findings of a feature."""
    findings = Findings()
    made = read_feature(pa.chunked_array([array]), "items.csv", "f", findings)
    made.validate(full=True)
    return str(made.type), made.to_pylist(), findings


@pytest.mark.parametrize(
    ("array", "kind", "values"),
    [
        (pa.array(["a", "", None]), "string", ["a", None, None]),
        (pa.array(["a", "b"], pa.large_string()), "string", ["a", "b"]),
        (pa.array(["a", "b"], pa.string_view()), "string", ["a", "b"]),
        (pa.array(["a", "b"]).dictionary_encode(), "string", ["a", "b"]),
        (pa.array([True, None]), "bool", [True, None]),
        (pa.array([1, 2], pa.uint8()), "int64", [1, 2]),
        (pa.array([2**64 - 1], pa.uint64()), "double", [float(2**64)]),
        (pa.array([1.5], pa.float16()), "double", [1.5]),
        (pa.array([1.0, float("nan"), float("inf")]), "double", [1.0, None, None]),
        (pa.array([decimal.Decimal("1.25")]), "double", [1.25]),
        (pa.array([decimal.Decimal("1.25")], pa.decimal256(50, 2)), "double", [1.25]),
        (pa.array([dt.date(2020, 1, 2)]), "date32[day]", [DAY.date()]),
        (pa.array([dt.date(2020, 1, 2)], pa.date64()), "date32[day]", [DAY.date()]),
        (pa.array([dt.time(1)]), "time64[us]", [dt.time(1)]),
        (pa.array([dt.timedelta(1)]), "duration[us]", [dt.timedelta(1)]),
        (pa.array([dt.datetime(2020, 1, 2)], pa.timestamp("ns")), "timestamp[us, tz=UTC]", [DAY]),
        (pa.array([0, 2**62], pa.timestamp("s")), "timestamp[us, tz=UTC]", [dt.datetime(1970, 1, 1, tzinfo=UTC), None]),
        (pa.array([["a", None, ""], [], None]), "list<item: string>", [["a"], [], None]),
        (pa.array([["a"], ["b", "c"]], pa.large_list(pa.large_string())), "list<item: string>", [["a"], ["b", "c"]]),
        (pa.array([["a"], None], pa.list_view(pa.string())), "list<item: string>", [["a"], None]),
        (pa.array([["a", "b"], None], pa.list_(pa.string(), 2)), "list<item: string>", [["a", "b"], None]),
        (pa.array([[1, 2], [3]]), "list<item: int64>", [[1, 2], [3]]),
        (pa.array([[2**64 - 1, None]], pa.list_(pa.uint64())), "list<item: string>", [[str(2**64 - 1)]]),
        (pa.array([[1.0, 2.0], [3.0, 4.0]]), "list<item: float>", [[1.0, 2.0], [3.0, 4.0]]),
        (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), "list<item: float>", [[1.0, 2.0], None]),
    ],
    ids=str,
)
def test_columns_are_read_in_the_types_that_the_models_know(array: pa.Array, kind: str, values: list[Any]) -> None:
    assert read(array)[:2] == (kind, values)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (pa.array([None, None]), "empty"),
        (pa.array([None], pa.string()), "empty"),
        (pa.array(["", ""]), "empty"),
        (pa.array([float("nan")]), "empty"),
        (pa.array([[], []], pa.list_(pa.float64())), "empty"),
        (pa.array([b"x"]), "binary"),
        (pa.array([{"a": 1}]), "struct<a: int64>"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "map<string, int64>"),
        (pa.array([pa.MonthDayNano([1, 2, 3])]), "month_day_nano_interval"),
        (pa.array([[[1]]]), "lists of list<item: int64>"),
        (pa.array([[1.0], [1.0, 2.0], [1.0, 2.0, 3.0]]), "lists of numbers of 3 lengths"),
        (pa.array([b"0" * 16], pa.uuid()), "an id of another table"),
    ],
    ids=str,
)
def test_other_columns_are_left_out_with_the_reason(array: pa.Array, reason: str) -> None:
    with pytest.raises(LeftOut) as left_out:
        read(array)
    assert str(left_out.value).startswith(reason)


def test_rows_with_another_number_of_entries_have_an_unknown_vector() -> None:
    _, values, findings = read(pa.array([[1.0, 2.0], [3.0], [5.0, None], [1.0, 1.0], [2.0, 2.0]]))
    assert values == [[1.0, 2.0], None, None, [1.0, 1.0], [2.0, 2.0]]
    assert findings.notes == ["items.csv: column f holds vectors of 2 numbers; 2 rows with others count as unknown"]


@pytest.mark.parametrize(
    ("titles", "expected"),
    [(pa.array([1, None]), ["1", None]), (pa.array(["a", ""]), ["a", None]), (pa.array([["a"], ["b"]]), [None, None])],
)
def test_titles_are_text(titles: pa.Array, expected: list[str | None]) -> None:
    assert read_titles(pa.chunked_array([titles]), "items.csv", Findings()).to_pylist() == expected


def test_the_index_columns_of_pandas_are_known() -> None:
    assert all(map(is_index, ["__index_level_0__", "__index_level_12__", "Unnamed: 0", "Unnamed: 0_level_1", ""]))
    assert not any(map(is_index, ["index", "Unnamed", "level_0"]))
