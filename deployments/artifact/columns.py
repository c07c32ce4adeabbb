"""Attribute columns of the catalogue, encoded for filters and lookups.

The Arrow type gives the kind: string is categorical, list of strings is multi, a number is numeric. Null means unknown.

Shapes: N items, V labels of all items, U distinct values.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.errors import ArtifactError
from deployments.messages import PAD, Array, Ints

FILE = "catalogue.arrow"
Kind = Literal["categorical", "multi", "numeric"]


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

    def labels(self, position: int) -> list[str]:
        """The labels of one item."""
        return [self.values[code] for code in self.codes_V[self.start_N[position] : self.start_N[position + 1]]]

    def code(self, value: str) -> int:
        """Position of `value` in `values`, -1 if no item has it."""
        at = bisect.bisect_left(self.values, value)
        return at if at < len(self.values) and self.values[at] == value else PAD


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """A numeric attribute."""

    values_N: Array
    """float64, NaN where unknown."""
    kind: Literal["numeric"] = "numeric"


Column = LabelColumn | NumberColumn


def string_column(name: str, column: pa.ChunkedArray) -> pa.Array:
    """A column of ids or titles as one array.

    Raises:
        ArtifactError: it is of another type.
    """
    if not _is_string(column.type):
        raise ArtifactError(f"{FILE}: column {name} is {column.type}; it must be string")
    return _one_chunk(column)


def attribute_column(name: str, column: pa.ChunkedArray) -> Column:
    """An attribute as a column of its kind.

    Raises:
        ArtifactError: its type is none of those that the module names.
    """
    kind, array = column.type, _one_chunk(column)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return NumberColumn(array.cast(pa.float64()).to_numpy(zero_copy_only=False))
    if _is_string(kind):
        return _encode(array, np.arange(len(array), dtype=np.int32), len(array), "categorical")
    if _is_list(kind) and _is_string(kind.value_type):
        owner_V = pc.list_parent_indices(array).to_numpy().astype(np.int32)
        return _encode(pc.list_flatten(array), owner_V, len(array), "multi")
    raise ArtifactError(f"{FILE}: column {name} is {kind}; it must be string, list<string> or a number")


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


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
