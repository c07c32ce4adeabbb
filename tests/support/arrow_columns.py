"""Hypothesis strategies for Arrow columns of every type that people's files hold, and of types that they rarely do."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Mapping

import pyarrow as pa
from hypothesis import strategies as st

Column = st.SearchStrategy[pa.ChunkedArray]

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
INT64 = st.integers(-(2**63), 2**63 - 1)


def _raw(
    kind: pa.DataType, storage: pa.DataType, least: int, most: int
) -> Callable[[int], st.SearchStrategy[pa.Array]]:
    """Arrays of `kind` over the whole range of its storage: Python has no such dates."""

    def draw(rows: int) -> st.SearchStrategy[pa.Array]:
        values = st.lists(st.none() | st.integers(least, most), min_size=rows, max_size=rows)
        return values.map(lambda numbers: pa.array(numbers, storage).view(kind))

    return draw


def _of(values: st.SearchStrategy[object], kind: pa.DataType) -> Callable[[int], st.SearchStrategy[pa.Array]]:
    def draw(rows: int) -> st.SearchStrategy[pa.Array]:
        return st.lists(st.none() | values, min_size=rows, max_size=rows).map(lambda each: pa.array(each, kind))

    return draw


def _types() -> dict[str, Callable[[int], st.SearchStrategy[pa.Array]]]:
    made: dict[str, Callable[[int], st.SearchStrategy[pa.Array]]] = {}
    for bits in (8, 16, 32, 64):
        made[f"int{bits}"] = _of(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), getattr(pa, f"int{bits}")())
        made[f"uint{bits}"] = _of(st.integers(0, 2**bits - 1), getattr(pa, f"uint{bits}")())
    made["float16"] = _of(st.floats(width=16), pa.float16())
    made["float32"] = _of(st.floats(width=32), pa.float32())
    made["float64"] = _of(st.floats() | st.integers(-3, 3).map(float), pa.float64())
    for unit in ("s", "ms", "us", "ns"):
        for zone in (None, "UTC", "Europe/Oslo"):
            made[f"timestamp {unit} {zone}"] = _raw(pa.timestamp(unit, zone), pa.int64(), -(2**63), 2**63 - 1)
            made[f"times {unit} {zone}"] = _raw(pa.timestamp(unit, zone), pa.int64(), 0, 2_000_000_000)
        made[f"duration {unit}"] = _raw(pa.duration(unit), pa.int64(), -(2**63), 2**63 - 1)
    made["date32"] = _raw(pa.date32(), pa.int32(), -(2**31), 2**31 - 1)
    made["date64"] = _raw(pa.date64(), pa.int64(), -(2**63), 2**63 - 1)
    made["time32"] = _of(st.times(), pa.time32("s"))
    made["time64"] = _of(st.times(), pa.time64("ns"))
    made["interval"] = _of(st.just(pa.MonthDayNano([1, 2, 3])), pa.month_day_nano_interval())
    for name in ("string", "large_string", "string_view"):
        made[name] = _of(TEXT, getattr(pa, name)())
    for name in ("binary", "large_binary", "binary_view"):
        made[name] = _of(st.binary(max_size=8), getattr(pa, name)())
    made["fixed_size_binary"] = _of(st.binary(min_size=16, max_size=16), pa.binary(16))
    made["uuid"] = _of(st.uuids().map(lambda each: each.bytes), pa.uuid())
    made["json"] = _of(st.sampled_from(['{"a": 1}', "[]"]), pa.json_())
    made["bool"] = _of(st.booleans(), pa.bool_())
    made["null"] = _of(st.none(), pa.null())
    whole = st.integers(-(10**7), 10**7)
    for name, kind in {
        "decimal32": pa.decimal32(9, 2),
        "decimal64": pa.decimal64(18, 2),
        "decimal128": pa.decimal128(30, 2),
        "decimal256": pa.decimal256(60, 2),
    }.items():
        made[name] = _of(whole.map(lambda cents: decimal.Decimal(cents) / 100), kind)
    made["decimal of thousands"] = _of(whole.map(lambda each: decimal.Decimal(each) * 1000), pa.decimal128(20, -3))
    made["dictionary"] = lambda rows: _of(TEXT, pa.string())(rows).map(lambda each: each.dictionary_encode())
    made["dictionary of int"] = lambda rows: _of(INT64, pa.int64())(rows).map(lambda each: each.dictionary_encode())
    for name, kind in {
        "list of text": pa.list_(pa.string()),
        "large list of text": pa.large_list(pa.large_string()),
        "list view of text": pa.list_view(pa.string_view()),
        "large list view": pa.large_list_view(pa.string()),
        "list of dictionary": pa.list_(pa.dictionary(pa.int32(), pa.string())),
    }.items():
        made[name] = _of(st.lists(st.none() | TEXT, max_size=3), kind)
    made["fixed list of text"] = _of(st.lists(TEXT, min_size=2, max_size=2), pa.list_(pa.string(), 2))
    made["list of int"] = _of(st.lists(st.none() | INT64, max_size=3), pa.list_(pa.int64()))
    made["list of float"] = _of(st.lists(st.none() | st.floats(), max_size=3), pa.list_(pa.float64()))
    made["vector"] = _of(st.lists(st.floats(width=32), min_size=3, max_size=3), pa.list_(pa.float32(), 3))
    made["empty vector"] = _of(st.just([]), pa.list_(pa.float32(), 0))
    made["whole vector"] = _of(st.lists(st.integers(-9, 9), min_size=3, max_size=3), pa.list_(pa.int8(), 3))
    made["list of bool"] = _of(st.lists(st.booleans(), max_size=3), pa.list_(pa.bool_()))
    made["list of date"] = _of(st.lists(st.dates(), max_size=3), pa.list_(pa.date32()))
    made["list of list"] = _of(st.just([[1]]), pa.list_(pa.list_(pa.int64())))
    made["list of struct"] = _of(st.just([{"a": 1}]), pa.list_(pa.struct([("a", pa.int64())])))
    made["struct"] = _of(st.just({"a": 1}), pa.struct([("a", pa.int64())]))
    made["map"] = _of(st.just([("a", 1)]), pa.map_(pa.string(), pa.int64()))
    made["run ends"] = _of(TEXT, pa.run_end_encoded(pa.int32(), pa.string()))
    made["union"] = lambda rows: st.just(
        pa.UnionArray.from_sparse(
            pa.array([0] * rows, pa.int8()), [pa.array(range(rows), pa.int64()), pa.array(["a"] * rows, pa.string())]
        )
    )
    return made


TYPES: Mapping[str, Callable[[int], st.SearchStrategy[pa.Array]]] = _types()


@st.composite
def columns(draw: st.DrawFn, rows: int, name: str = "") -> pa.ChunkedArray:
    """A column of the type `name`, or of any, in one or two chunks."""
    array = draw(TYPES[name or draw(st.sampled_from(sorted(TYPES)))](rows))
    cut = draw(st.integers(0, rows))
    return pa.chunked_array([array[:cut], array[cut:]] if draw(st.booleans()) else [array], array.type)


EXAMPLES: Mapping[str, tuple[pa.Array, list[str]]] = {
    "integers above 2^53": (pa.array([2**53 + 1, 2**64 - 1], pa.uint64()), ["9007199254740993", str(2**64 - 1)]),
    "uuid": (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), [str(uuid.UUID(int=1))]),
    "fixed bytes": (pa.array([uuid.UUID(int=2).bytes], pa.binary(16)), [str(uuid.UUID(int=2))]),
    "text as bytes": (pa.array([b"a"], pa.binary()), ["a"]),
    "category": (pa.array(["b", "a"]).dictionary_encode(), ["a", "b"]),
    "large text": (pa.array(["b", "a"], pa.large_string()), ["a", "b"]),
    "view": (pa.array(["b", "a"], pa.string_view()), ["a", "b"]),
    "decimal": (pa.array([decimal.Decimal(12)], pa.decimal128(20, 0)), ["12"]),
    "run ends": (pa.array(["a", "a"], pa.run_end_encoded(pa.int32(), pa.string())), ["a"]),
    "leading zeros": (pa.array(["001", "1"]), ["001", "1"]),
}
"""Columns of ids, and the distinct ids as text."""

A_DATE = dt.date(2026, 1, 1)
