"""Attribute columns of the catalogue, encoded for filters and lookups.

The Arrow type gives the kind (arrow_types.py): text and bool are categorical, lists of text or of whole numbers are
multi, numbers and times are numeric. Null means unknown. Vectors and types without a meaning are no attributes.

Shapes: N items, V labels of all items, U distinct values.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.artifact.arrow_types import numbers, read
from deployments.errors import ArtifactError
from deployments.messages import PAD, Array, Ints

FILE = "catalogue.arrow"
Kind = Literal["categorical", "multi", "numeric"]

_SHOWN = {"date": "D", "timestamp": "s"}
"""The precision in which a time is shown."""

_LATEST_S = 9e18
"""Later times are shown as this one; NumPy has none beyond 2^63 s."""


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """A categorical or multi attribute: the labels of N items in compressed rows."""

    values: tuple[str, ...]
    """[U], sorted."""
    codes_V: Ints
    """Position in `values`."""
    owner_V: Ints
    """The item, ascending."""
    start_N: Ints
    """[N + 1]: item i has the labels start[i] to start[i + 1]."""
    kind: Literal["categorical", "multi"]
    is_bool: bool = False
    """The values are `false` and `true`."""

    def labels(self, position: int) -> list[str]:
        """The labels of one item."""
        return [self.values[code] for code in self.codes_V[self.start_N[position] : self.start_N[position + 1]]]

    def value(self, position: int) -> list[str] | str | bool | None:
        """The attribute of one item, for JSON."""
        labels = self.labels(position)
        if self.kind == "multi":
            return labels
        return None if not labels else labels[0] == "true" if self.is_bool else labels[0]

    def code(self, value: str) -> int:
        """Position of `value` in `values`, -1 if no item has it."""
        at = bisect.bisect_left(self.values, value)
        return at if at < len(self.values) and self.values[at] == value else PAD


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """A numeric attribute."""

    values_N: Array
    """float64, NaN where unknown; times in seconds, those of `date` and `timestamp` since 1970-01-01 UTC."""
    unit: Literal["number", "date", "timestamp"] = "number"
    kind: Literal["numeric"] = "numeric"

    def value(self, position: int) -> float | str | None:
        """The attribute of one item, for JSON: whole numbers as int, dates and timestamps in ISO 8601."""
        number = float(self.values_N[position])
        if not math.isfinite(number):
            return None
        if self.unit != "number":
            seconds = math.floor(min(max(number, -_LATEST_S), _LATEST_S))
            moment = np.datetime64(seconds, "s").astype(f"M8[{_SHOWN[self.unit]}]")
            return f"{moment}Z" if self.unit == "timestamp" else str(moment)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number


Column = LabelColumn | NumberColumn


def id_column(column: pa.ChunkedArray) -> pa.Array:
    """The ids as one array of text.

    Raises:
        ArtifactError: they are of another type.
    """
    values = read(column)
    if values.meaning != "text":
        raise ArtifactError(f"{FILE}: column item_id is {column.type}; it must be string")
    return values.array


def title_column(column: pa.ChunkedArray) -> pa.Array | None:
    """The titles as one array of text; None if they are neither text nor numbers."""
    values = read(column)
    return values.array.cast(pa.large_string()) if values.meaning in ("text", "integer", "float", "decimal") else None


def attribute_column(column: pa.ChunkedArray) -> Column | None:
    """An attribute as a column of its kind; None if its type is none that the module names."""
    values = read(column)
    if values.meaning in ("vector", "unusable"):
        return None
    if values.meaning == "labels":
        return _encode(values.array, values.row_V.astype(np.int32), len(column), "multi")
    if values.meaning == "text":
        return _encode(values.array, np.arange(len(column), dtype=np.int32), len(column), "categorical")
    if values.meaning == "bool":
        return _bools(values.array)
    unit: Literal["number", "date", "timestamp"] = "number"
    if values.meaning in ("date", "timestamp"):
        unit = values.meaning
    return NumberColumn(numbers(values), unit)


def _bools(array: pa.Array) -> LabelColumn:
    owner_V = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False)).astype(np.int32)
    codes_V = array.drop_null().cast(pa.int32()).to_numpy()
    start_N = np.zeros(len(array) + 1, np.int32)
    np.cumsum(np.bincount(owner_V, minlength=len(array)), out=start_N[1:])
    return LabelColumn(("false", "true"), codes_V, owner_V, start_N, "categorical", is_bool=True)


def _encode(labels: pa.Array, owner_V: Ints, n_items: int, kind: Literal["categorical", "multi"]) -> LabelColumn:
    valid_V = labels.is_valid().to_numpy(zero_copy_only=False)
    encoded = labels.drop_null().dictionary_encode()
    by_value_U = pc.array_sort_indices(encoded.dictionary).to_numpy()  # UTF-8 order, which is Python's
    code_U = np.empty(len(by_value_U), np.int32)
    code_U[by_value_U] = np.arange(len(by_value_U), dtype=np.int32)
    owner_V = owner_V[valid_V]
    start_N = np.zeros(n_items + 1, np.int32)
    np.cumsum(np.bincount(owner_V, minlength=n_items), out=start_N[1:])
    values = tuple(encoded.dictionary.take(pa.array(by_value_U)).to_pylist())
    return LabelColumn(values, code_U[encoded.indices.to_numpy()], owner_V, start_N, kind)
