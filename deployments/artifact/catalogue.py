"""The catalogue of an artifact: ids, titles and attributes of its items, and the filters that they pass.

Built from `catalogue.arrow`, one row per item: `item_id` (string, unique), `title` (string, optional), and any
attributes, see columns.py. Null means unknown; an unknown value passes no filter.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.artifact.columns import FILE, Column, Kind, LabelColumn, attribute_column, id_column, title_column
from deployments.artifact.filters import filter_schema, parse_filters, passing_items
from deployments.artifact.reader import Artifact
from deployments.errors import ArtifactError
from deployments.messages import PAD, Bools, Filter, Ints

_CACHED_MASK_BYTES = 64 * 1024 * 1024
"""Most bytes of cached filter masks, but at least 16 masks."""

_NO_POSITIONS: Ints = np.empty(0, np.int32)


class Catalogue:
    """The N items of one artifact. Thread-safe; all returned masks and codes are read-only."""

    def __init__(self, item_ids: pa.Array, titles: pa.Array, columns: Mapping[str, Column]) -> None:
        self._ids, self._titles, self._columns = item_ids, titles, columns
        size = min(1024, max(16, _CACHED_MASK_BYTES // max(1, len(item_ids))))
        self.mask: Callable[[Filter], Bools] = functools.lru_cache(size)(self._mask)
        """Filter → read-only bool [N], True where the item passes; cached, the least recently used are dropped."""

    @classmethod
    def load(cls, artifact: Artifact) -> Catalogue:
        """The catalogue of `artifact`."""
        return cls.from_table(artifact.table(FILE))

    @classmethod
    def from_table(cls, table: pa.Table) -> Catalogue:
        """From a table as the module describes.

        Raises:
            ArtifactError: no `item_id`, a duplicate or null id, ids that are no text.
        """
        if "item_id" not in table.column_names:
            raise ArtifactError(f"{FILE}: no column item_id (string); it has {', '.join(table.column_names) or 'none'}")
        ids = id_column(table["item_id"])
        titles = title_column(table["title"]) if "title" in table.column_names else None
        named = {n: attribute_column(table[n]) for n in table.column_names if n not in ("item_id", "title")}
        columns = {name: column for name, column in named.items() if column}
        if ids.null_count or pc.count_distinct(ids).as_py() != len(ids):
            raise ArtifactError(f"{FILE}: item_id must be unique and without nulls")
        return cls(ids, titles, columns)

    def __len__(self) -> int:
        return len(self._ids)

    @functools.cached_property
    def item_ids(self) -> tuple[str, ...]:
        """The external ids, by position. Built on first use: 1M ids take 70 MB, and stages need none."""
        return tuple(self._ids.to_pylist())

    @functools.cached_property
    def _position(self) -> dict[str, int]:
        return {item_id: i for i, item_id in enumerate(self.item_ids)}

    @property
    def attributes(self) -> Mapping[str, Kind]:
        """Name → kind of every attribute."""
        return {name: column.kind for name, column in self._columns.items()}

    def positions(self, ids: Sequence[str]) -> Ints:
        """int32 [len(ids)]: the position of each item, -1 where unknown."""
        return np.fromiter(map(self._position.get, ids, itertools.repeat(PAD)), np.int32, len(ids))

    def resolve(self, ids: Sequence[str]) -> tuple[Ints, list[str]]:
        """The positions of `ids`, in order and without repeats; and the ids that the catalogue does not contain."""
        if not ids:
            return _NO_POSITIONS, []
        positions = self.positions(ids)
        unknown = [item_id for item_id, position in zip(ids, positions.tolist(), strict=True) if position == PAD]
        return np.array(list(dict.fromkeys(positions[positions != PAD].tolist())), np.int32), unknown

    def metadata(self, position: int) -> dict[str, Any]:
        """Title and attributes of one item, ready for JSON; None where unknown, whole numbers as int, dates and
        timestamps in ISO 8601."""
        found: dict[str, Any] = {} if self._titles is None else {"title": self._titles[position].as_py()}
        for name, column in self._columns.items():
            found[name] = column.value(position)
        return found

    def category_codes(self, attribute: str) -> Ints:
        """int32 [N]: the item's category as a number, -1 where unknown; of a multi attribute the first value.

        `attribute` must be categorical or multi.
        """
        column = self._columns[attribute]
        assert isinstance(column, LabelColumn), f"{attribute} is numeric"
        codes_N = np.full(len(self), PAD, np.int32)
        start_N = column.start_N
        has_label_N = start_N[1:] > start_N[:-1]
        codes_N[has_label_N] = column.codes_V[start_N[:-1][has_label_N]]
        codes_N.setflags(write=False)
        return codes_N

    def validate(self, filters: Mapping[str, object]) -> Filter:
        """The `filters` object of a request as a Filter: `{"genres": ["Comedy"], "year": {"gte": 1990}}`.

        A categorical or multi attribute takes a string or a list of them, a bool true or false, a numeric one `gte`
        and/or `lte`: numbers, for dates and timestamps Unix seconds or ISO 8601 text.
        Equivalent filters compare equal.

        Raises:
            InvalidRequest: names each wrong field (`filters.genres`), the mistake and the remedy.
        """
        return parse_filters(self._columns, filters)

    def filter_schema(self) -> dict[str, Any]:
        """What `validate` accepts, as JSON Schema."""
        return filter_schema(self._columns)

    def _mask(self, condition: Filter) -> Bools:
        return passing_items(self._columns, len(self), condition)
