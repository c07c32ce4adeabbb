"""What a column of any Arrow type means to filters (columns.py) and to features (models/features/arrow_columns.py).

Shapes: N rows, V entries of all lists.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.messages import Array

Meaning = Literal[
    "text",
    "labels",
    "vector",
    "bool",
    "integer",
    "float",
    "decimal",
    "date",
    "timestamp",
    "time",
    "duration",
    "unusable",
]
"""`labels`: lists of text or of whole numbers. `vector`: lists of fractions; whole numbers in lists of a fixed size, or
in lists that are all equally long, MIN_VECTOR at least."""

MIN_VECTOR = 8

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class Values(NamedTuple):
    """The values of a column, in a plain type: no dictionary, view, run ends or extension."""

    meaning: Meaning
    array: pa.Array
    """[N]; of labels (text) and vectors (numbers) the entries of all lists [V]."""
    row_V: Array
    """The row of each entry, ascending; empty if there are no lists."""


def read(column: pa.ChunkedArray | pa.Array) -> Values:
    """The meaning and the values of a column of any type."""
    try:
        array = _plain(column)
        if not _is_list(array.type):
            return Values(_meaning(array.type), array, np.empty(0, np.int64))
        length_N = pc.list_value_length(array).fill_null(0).to_numpy()
        row_V = np.repeat(np.arange(len(array)), length_N)
        entries, fixed = _plain(array.flatten()), pa.types.is_fixed_size_list(array.type)
        meaning = _meaning(entries.type)
        if meaning in ("text", "integer") and not (meaning == "integer" and (fixed or _all_long(length_N))):
            return Values("labels", entries.cast(pa.large_string()), row_V)
        return Values("vector" if meaning in ("integer", "float", "decimal") else "unusable", entries, row_V)
    except (pa.ArrowException, NotImplementedError, TypeError):
        return Values("unusable", pa.nulls(len(column)), np.empty(0, np.int64))


def numbers(values: Values) -> Array:
    """bool, numbers and times as float64, NaN where null. True is 1; times are in seconds, a date is its midnight."""
    array, kind = values.array, values.array.type
    if values.meaning == "bool":
        array = array.cast(pa.uint8())
    elif pa.types.is_temporal(kind):
        array = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    value_N: Array = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if pa.types.is_date32(kind):
        return value_N * 86_400
    if pa.types.is_temporal(kind):
        return value_N / (1000 if pa.types.is_date64(kind) else _PER_SECOND[kind.unit])
    return value_N


def _plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    array = column
    if isinstance(column, pa.ChunkedArray):
        array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    while True:
        kind = array.type
        if isinstance(kind, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(kind):
            array = array.dictionary_decode()
        elif pa.types.is_run_end_encoded(kind):
            array = pc.run_end_decode(array)
        elif pa.types.is_string_view(kind):
            array = array.cast(pa.large_string())
        elif pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
            array = pa.array(array.to_pylist(), pa.large_list(kind.value_type))
        else:
            return array


def _is_list(kind: pa.DataType) -> bool:
    return any(f(kind) for f in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _meaning(kind: pa.DataType) -> Meaning:
    checks: tuple[tuple[Meaning, tuple[str, ...]], ...] = (
        ("text", ("string", "large_string")),
        ("bool", ("boolean",)),
        ("integer", ("integer",)),
        ("float", ("floating",)),
        ("decimal", ("decimal",)),
        ("date", ("date",)),
        ("timestamp", ("timestamp",)),
        ("time", ("time",)),
        ("duration", ("duration",)),
    )
    for meaning, names in checks:
        if any(getattr(pa.types, f"is_{name}")(kind) for name in names):
            return meaning
    return "unusable"


def _all_long(length_N: Array) -> bool:
    """True if the lists that are not empty have one length, MIN_VECTOR or more."""
    some_N = length_N[length_N > 0]
    return len(some_N) > 0 and int(some_N.min()) == int(some_N.max()) >= MIN_VECTOR
