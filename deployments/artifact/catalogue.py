"""What the boundary and the stages know of items: their ids, titles and attributes, and which pass a filter.

Built from the artifact's `catalogue.arrow`, one row per item: `item_id` (string, unique), `title` (string, optional),
and any attributes. The column's type gives the attribute's kind: string is categorical, list of strings is multi,
a number is numeric. Null means unknown; an unknown value passes no filter.
"""

from __future__ import annotations

import bisect
import difflib
import functools
import itertools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.artifact.reader import Artifact
from deployments.errors import ArtifactError, InvalidRequest
from deployments.messages import PAD, Array, Bools, Filter, Ints

FILE = "catalogue.arrow"
Kind = Literal["categorical", "multi", "numeric"]

_CACHED_MASK_BYTES = 64 * 1024 * 1024
_SHOWN = 64  # characters of a caller's string repeated in a message
_COMPARED = 1000  # values a misspelt one is compared with
_LARGEST = sys.float_info.max


@dataclass(frozen=True, slots=True)
class _Labels:
    """A categorical or multi attribute: V labels of N items in compressed rows. N = items, U = distinct values."""

    values: tuple[str, ...]
    """[U], sorted."""
    codes_V: Ints
    """Position in `values`."""
    owner_V: Ints
    """The item, ascending."""
    start_N: Ints
    """[N + 1]: item i has the labels start[i] to start[i + 1]."""
    kind: Literal["categorical", "multi"]

    def of(self, position: int) -> list[str]:
        return [self.values[code] for code in self.codes_V[self.start_N[position] : self.start_N[position + 1]]]

    def code(self, value: str) -> int:
        """Position of `value` in `values`, -1 if it is none of them."""
        at = bisect.bisect_left(self.values, value)
        return at if at < len(self.values) and self.values[at] == value else PAD


@dataclass(frozen=True, slots=True)
class _Numbers:
    values_N: Array
    """float64, NaN where unknown."""
    kind: Literal["numeric"] = "numeric"


_NONE: Ints = np.empty(0, np.int32)


class Catalogue:
    """The N items of one artifact. Thread-safe; all arrays it gives are read-only."""

    def __init__(self, item_ids: pa.Array, titles: pa.Array, columns: Mapping[str, _Labels | _Numbers]) -> None:
        self._ids, self._titles, self._columns = item_ids, titles, columns
        size = min(1024, max(16, _CACHED_MASK_BYTES // max(1, len(item_ids))))
        self.mask: Callable[[Filter], Bools] = functools.lru_cache(size)(self._mask)
        """Filter → read-only bool [N], True where the item passes. The least recently used are forgotten."""

    @classmethod
    def load(cls, artifact: Artifact) -> Catalogue:
        """The catalogue of `artifact`."""
        return cls.from_table(artifact.table(FILE))

    @classmethod
    def from_table(cls, table: pa.Table) -> Catalogue:
        """From a table as the module describes.

        Raises:
            ArtifactError: no `item_id`, an id twice or null, a column of another type.
        """
        if "item_id" not in table.column_names:
            raise ArtifactError(f"{FILE}: no column item_id (string); it has {', '.join(table.column_names) or 'none'}")
        ids = _strings("item_id", table["item_id"])
        titles = _strings("title", table["title"]) if "title" in table.column_names else None
        columns = {n: _column(n, table[n]) for n in table.column_names if n not in ("item_id", "title")}
        if ids.null_count or pc.count_distinct(ids).as_py() != len(ids):
            raise ArtifactError(f"{FILE}: item_id must be unique and without nulls")
        return cls(ids, titles, columns)

    def __len__(self) -> int:
        return len(self._ids)

    @functools.cached_property
    def item_ids(self) -> tuple[str, ...]:
        """The external ids, by position. Made when first asked for: 1M of them take 70 MB, and stages need none."""
        return tuple(self._ids.to_pylist())

    @functools.cached_property
    def _position(self) -> dict[str, int]:
        return {item_id: i for i, item_id in enumerate(self.item_ids)}

    @property
    def attributes(self) -> Mapping[str, Kind]:
        """Name → kind of every attribute."""
        return {name: column.kind for name, column in self._columns.items()}

    def positions(self, ids: Sequence[str]) -> Ints:
        """int32 [len(ids)]: the place of each item here, -1 where unknown."""
        return np.fromiter(map(self._position.get, ids, itertools.repeat(PAD)), np.int32, len(ids))

    def known(self, ids: Sequence[str]) -> tuple[Ints, list[str]]:
        """Places of the known ids, without repeats, in order; and the unknown ids."""
        if not ids:
            return _NONE, []
        positions = self.positions(ids)
        unknown = [item_id for item_id, position in zip(ids, positions.tolist(), strict=True) if position == PAD]
        return np.array(list(dict.fromkeys(positions[positions != PAD].tolist())), np.int32), unknown

    def metadata(self, position: int) -> dict[str, Any]:
        """Title and attributes of one item, ready for JSON; None where unknown, whole numbers as int."""
        found: dict[str, Any] = {} if self._titles is None else {"title": self._titles[position].as_py()}
        for name, column in self._columns.items():
            if isinstance(column, _Numbers):
                number = float(column.values_N[position])
                found[name] = (
                    (int(number) if number.is_integer() and abs(number) < 2**53 else number)
                    if math.isfinite(number)
                    else None
                )
            else:
                labels = column.of(position)
                found[name] = labels if column.kind == "multi" else labels[0] if labels else None
        return found

    def category_codes(self, attribute: str) -> Ints:
        """int32 [N]: the item's category as a number, -1 where it has none; a multi attribute counts by its first.

        `attribute` must be categorical or multi.
        """
        column = self._columns[attribute]
        assert isinstance(column, _Labels), f"{attribute} is numeric"
        codes = np.full(len(self), PAD, np.int32)
        start_N = column.start_N
        some = start_N[1:] > start_N[:-1]
        codes[some] = column.codes_V[start_N[:-1][some]]
        codes.setflags(write=False)
        return codes

    def validate(self, filters: Mapping[str, object]) -> Filter:
        """The `filters` object of a request as a Filter: `{"genres": ["Comedy"], "year": {"gte": 1990}}`.

        A categorical or multi attribute takes a string or a list of them, a numeric one `gte` and/or `lte`.
        Filters that mean the same compare equal.

        Raises:
            InvalidRequest: names each field (`filters.genres`), what is wrong with it and what would be right.
        """
        errors: list[tuple[str, str]] = []
        one_of: dict[str, tuple[str, ...]] = {}
        between: dict[str, tuple[float, float]] = {}
        for name, wanted in filters.items():
            column = self._columns.get(name)
            try:
                if column is None:
                    raise ValueError(f"no such attribute; the catalogue has: {', '.join(self._columns) or 'none'}")
                if isinstance(column, _Numbers):
                    between[name] = _interval(wanted)
                else:
                    one_of[name] = _accepted(column, wanted)
            except ValueError as error:
                errors.append((f"filters.{name[:_SHOWN]}", str(error)))
        if errors:
            raise InvalidRequest(errors)
        return Filter(tuple(sorted(one_of.items())), tuple(sorted(between.items())))

    def _mask(self, condition: Filter) -> Bools:
        passes = np.ones(len(self), np.bool_)
        for name, values in condition.one_of:
            column = self._columns[name]
            assert isinstance(column, _Labels)
            accepted = np.zeros(len(column.values) + 1, np.bool_)  # the last: values unknown here
            accepted[[column.code(value) for value in values]] = True
            accepted[-1] = False
            matches = np.zeros(len(self), np.bool_)
            matches[column.owner_V[accepted[column.codes_V]]] = True
            passes &= matches
        for name, (low, high) in condition.between:
            column = self._columns[name]
            assert isinstance(column, _Numbers)
            passes &= (column.values_N >= low) & (column.values_N <= high)
        passes.setflags(write=False)
        return passes


def _strings(name: str, column: pa.ChunkedArray) -> pa.Array:
    if not _is_text(column.type):
        raise ArtifactError(f"{FILE}: column {name} is {column.type}; it must be string")
    return _one_chunk(column)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _column(name: str, column: pa.ChunkedArray) -> _Labels | _Numbers:
    kind, array = column.type, _one_chunk(column)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _Numbers(array.cast(pa.float64()).to_numpy(zero_copy_only=False))
    if _is_text(kind):
        return _encode(array, np.arange(len(array), dtype=np.int32), len(array), "categorical")
    if _is_list(kind) and _is_text(kind.value_type):
        owner_V = pc.list_parent_indices(array).to_numpy().astype(np.int32)
        return _encode(pc.list_flatten(array), owner_V, len(array), "multi")
    raise ArtifactError(f"{FILE}: column {name} is {kind}; it must be string, list<string> or a number")


def _encode(labels: pa.Array, owner_V: Ints, n_items: int, kind: Literal["categorical", "multi"]) -> _Labels:
    known_V = labels.is_valid().to_numpy(zero_copy_only=False)
    encoded = labels.drop_null().dictionary_encode()
    by_value_U = pc.array_sort_indices(encoded.dictionary).to_numpy()  # UTF-8 order, which is Python's
    code_U = np.empty(len(by_value_U), np.int32)
    code_U[by_value_U] = np.arange(len(by_value_U), dtype=np.int32)
    owner_V = owner_V[known_V]
    start_N = np.zeros(n_items + 1, np.int32)
    np.cumsum(np.bincount(owner_V, minlength=n_items), out=start_N[1:])
    values = tuple(encoded.dictionary.take(pa.array(by_value_U)).to_pylist())
    return _Labels(values, code_U[encoded.indices.to_numpy()], owner_V, start_N, kind)


def _interval(wanted: object) -> tuple[float, float]:
    expected = 'must be an object with gte and/or lte, e.g. {"gte": 1990, "lte": 1999}'
    if not isinstance(wanted, Mapping) or not wanted or not wanted.keys() <= {"gte", "lte"}:
        raise ValueError(expected)
    for name, bound in wanted.items():
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not abs(bound) <= _LARGEST:
            raise ValueError(f"{name} must be a finite number")
    low, high = float(wanted.get("gte", -math.inf)), float(wanted.get("lte", math.inf))
    if low > high:
        raise ValueError(f"gte {low:g} is greater than lte {high:g}; no item can pass")
    return low, high


def _accepted(labels: _Labels, wanted: object) -> tuple[str, ...]:
    values = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(values, list | tuple) or not values:
        raise ValueError("must be a string or a list of at least one string")
    for value in values:
        if not isinstance(value, str):
            raise ValueError("must be a string or a list of strings")
        if labels.code(value) == PAD:
            raise ValueError(f"no item has the value {value[:_SHOWN]!r}; {_suggest(labels.values, value[:_SHOWN])}")
    return tuple(sorted(set(values)))


def _suggest(values: Sequence[str], value: str) -> str:
    """Up to ten values close to `value`; its neighbours in order where there are too many to compare with each."""
    at = bisect.bisect_left(values, value)
    near = values if len(values) <= _COMPARED else values[max(0, at - 5) : at + 5]
    close = difflib.get_close_matches(value, near, n=10, cutoff=0.5)
    shown = ", ".join(repr(v[:_SHOWN]) for v in close or near[:10])
    return f"close: {shown}" if close else f"known: {shown or 'none'}"
