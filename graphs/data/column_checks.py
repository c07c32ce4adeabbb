"""Reads and checks single columns of the user's tables. Every DataError names the file, the column and the remedy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.errors import DataError
from deployments.messages import Floats, Shorts, Times
from deployments.store.event_types import UNTYPED

LATEST_S = 4_102_444_800.0
"""The year 2100. The API refuses later events, too."""


def sorted_by_id(table: pa.Table, file: str, name: str) -> pa.Table:
    """`table` with text ids in the column `name`, sorted by them; the ids are unique, the features usable."""
    ids = id_column(table, file, name)
    if pc.count_distinct(ids).as_py() != len(ids):
        raise DataError(f"{file}: {name} must be unique; drop the repeated rows")
    for column in table.schema:
        _check_feature(file, column)
    return table.set_column(table.schema.get_field_index(name), name, ids).take(pc.sort_indices(ids))


def id_column(table: pa.Table, file: str, name: str) -> pa.Array:
    """The ids as text, without control characters."""
    column = _column(table, file, name, "ids (text or integers)")
    if not (
        pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    ):
        raise DataError(f"{file}: column {name} is {column.type}; it should hold ids (text or integers)")
    ids = column.cast(pa.string())
    if pc.any(pc.match_substring_regex(ids, "[\\x00-\\x1f\\x7f]")).as_py():
        raise DataError(f"{file}: column {name} holds ids with control characters; the API takes none of them")
    return ids


def timestamps(table: pa.Table, file: str) -> Times:
    """The column `timestamp` in Unix seconds [E]."""
    expected = "Unix seconds, or Arrow timestamps"
    column = _column(table, file, "timestamp", expected)
    if pa.types.is_timestamp(column.type):
        micros: Times = column.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy().astype(np.float64)
        return micros / 1e6
    seconds = _numbers(column, file, "timestamp", expected)
    if len(seconds) and not 0 <= seconds.min() <= seconds.max() <= LATEST_S:
        wrong = seconds.max() if seconds.max() > LATEST_S else seconds.min()
        raise DataError(f"{file}: column timestamp holds {wrong:.0f}; give Unix seconds, not milliseconds")
    return seconds


def weights(table: pa.Table, file: str) -> Floats | None:
    """The column `weight` [E], NaN where it is empty; None without it."""
    expected = "numbers in [-1, 1]"
    if "weight" in table.column_names:
        column = table.column("weight").combine_chunks()
        values = np.full(len(column), np.nan)
        known = column.is_valid().to_numpy(zero_copy_only=False)
        values[known] = _numbers(column.drop_null(), file, "weight", expected)
        if np.abs(values[known]).max(initial=0) > 1:
            raise DataError(f"{file}: column weight reaches {np.abs(values[known]).max():g}; it should hold {expected}")
        return values.astype(np.float32)
    return None


def event_types(table: pa.Table, file: str) -> tuple[list[str], Shorts]:
    """The names of the types, lower case, and the type of each event [E]: the column `event_type`, or UNTYPED."""
    if "event_type" not in table.column_names:
        return [UNTYPED], np.zeros(len(table), np.int16)
    names = pc.utf8_lower(_column(table, file, "event_type", "text").cast(pa.string()))
    encoded = names.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int16)


def _column(table: pa.Table, file: str, name: str, expected: str) -> pa.Array:
    if name not in table.column_names:
        raise DataError(f"{file}: column {name} is missing; it should hold {expected}")
    column = table.column(name).combine_chunks()
    if column.null_count:
        raise DataError(f"{file}: column {name} has {column.null_count} empty values; fill them in or drop the rows")
    return column


def _numbers(column: pa.Array, file: str, name: str, expected: str) -> Times:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(f"{file}: column {name} is {column.type}; it should hold {expected}")
    values: Times = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if not np.isfinite(values).all():
        raise DataError(f"{file}: column {name} holds NaN or infinity; it should hold {expected}")
    return values


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
