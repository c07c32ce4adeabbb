"""From raw columns of items and users to features, with the numbers that training fitted. schema.json holds them.

Needs NumPy and the standard library alone, so that it runs where pyarrow and pydantic are not. A raw column is a list
of Python values, an array, or `Labels`. Whatever is missing, unreadable, unknown, NaN or infinite gives the column's
`missing`. Every row is transformed by itself: its features do not depend on the other rows, bit for bit.

Shapes: N rows, V labels of all rows, U distinct labels, D dimensions of a vector, C content values, A attributes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from deployments.messages import PAD, Array, Floats

Source = Literal["item", "user", "item_statistic", "history", "source_score"]
"""`item`, `user`: the tables. `item_statistic`: counted from the events. `history`: the user's events. `source_score`:
the candidate stage."""

Dtype = Literal[
    "string",
    "bool",
    "int16",
    "int32",
    "int64",
    "float32",
    "float64",
    "decimal",
    "date",
    "timestamp",
    "time",
    "duration",
]
"""The last four are counted in seconds: since 1970-01-01 UTC (both), since midnight, or as such."""

_CHUNK = 4096
"""Rows of vectors that are projected at once."""


STRICT = {"extra": "forbid", "strict": True, "allow_inf_nan": False}
"""How schema.py validates the classes below, with pydantic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AsIs:
    """The values as they are; of columns that come from no table."""

    __pydantic_config__: ClassVar = STRICT

    kind: Literal["none"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardise:
    """A number x → (x - center) / scale, clipped to ± clip. With `log`, log(1 + x) takes the place of x."""

    __pydantic_config__: ClassVar = STRICT

    kind: Literal["standardise"] = "standardise"
    log: bool
    center: float
    scale: float
    clip: float

    def __post_init__(self) -> None:
        if not self.scale > 0 or not self.clip > 0:
            raise ValueError("scale and clip must be more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiHot:
    """Labels → 1 per value that the row has, in the order of `values`; then 1 per bucket.

    Every other label falls into bucket `crc32(label in UTF-8, seed) % buckets`; without buckets it is unknown.
    """

    __pydantic_config__: ClassVar = STRICT

    kind: Literal["multi_hot"] = "multi_hot"
    values: tuple[str, ...]
    buckets: int
    seed: int

    def __post_init__(self) -> None:
        if len(set(self.values)) < len(self.values) or not 0 <= self.seed < 2**32:
            raise ValueError("values must differ, and seed must be in [0, 2^32)")
        if self.buckets < 0 or not (self.values or self.buckets):
            raise ValueError("there must be values or buckets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A vector x → per axis the sum of (x - mean) * axis, clipped to ± clip. The axes carry the scales."""

    __pydantic_config__: ClassVar = STRICT

    kind: Literal["project"] = "project"
    mean: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    clip: float

    def __post_init__(self) -> None:
        if not self.axes or any(len(axis) != len(self.mean) for axis in self.axes) or not self.clip > 0:
            raise ValueError("there must be axes, each as long as mean, and clip must be more than 0")


Transform = AsIs | Standardise | MultiHot | Project


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """An input column of the models."""

    __pydantic_config__: ClassVar = STRICT

    name: str
    source: Source
    dtype: Dtype
    """Of one value."""
    shape: tuple[int | None, ...]
    """Per row: [] is one value, [768] a vector, [null] a list of any length."""
    missing: float
    """Stands for a missing value, after the transform."""
    transform: Transform

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Column:
        """From an entry of schema.json that has been validated (schema.py)."""
        kinds: dict[str, type[Transform]] = {
            "none": AsIs,
            "standardise": Standardise,
            "multi_hot": MultiHot,
            "project": Project,
        }
        raw = {key: _tuples(value) for key, value in entry["transform"].items()}
        shape = tuple(entry["shape"])
        return cls(**(dict(entry) | {"shape": shape, "transform": kinds[raw["kind"]](**raw)}))

    def content(self) -> list[str]:
        """Names of the content values that it gives."""
        if not isinstance(self.transform, MultiHot):
            return []
        buckets = (f"{self.name}#{bucket}" for bucket in range(self.transform.buckets))
        return [*(f"{self.name}={value}" for value in self.transform.values), *buckets]

    def attributes(self) -> list[str]:
        """Names of the attributes that it gives."""
        if isinstance(self.transform, Project):
            return [f"{self.name}.axis_{axis}" for axis in range(1, len(self.transform.axes) + 1)]
        return [] if isinstance(self.transform, MultiHot) else [self.name]


class Labels(NamedTuple):
    """The labels of N rows: row `row_V[v]` has the label `values[code_V[v]]`."""

    row_V: Array
    code_V: Array
    values: Sequence[str]


Raw = Sequence[Any] | Array | Labels


class TableFeatures(NamedTuple):
    """Features of items or users: `content_NC` 0/1, `attributes_NA` standardised, with their names."""

    content: list[str]
    content_NC: Floats
    attributes: list[str]
    attributes_NA: Floats


def content_names(columns: Sequence[Column]) -> list[str]:
    """Names of the C content values."""
    return [name for column in columns for name in column.content()]


def attribute_names(columns: Sequence[Column]) -> list[str]:
    """Names of the A attributes."""
    return [name for column in columns for name in column.attributes()]


def apply(columns: Sequence[Column], table: Mapping[str, Raw], n_rows: int) -> TableFeatures:
    """The features that `columns` of items or of users give, in their order. A column that `table` lacks is missing."""
    content, attributes = content_names(columns), attribute_names(columns)
    content_NC = np.zeros((n_rows, len(content)), np.float32)
    attributes_NA = np.zeros((n_rows, len(attributes)), np.float32)
    c = a = 0
    for column in columns:
        raw, transform = table.get(column.name, [None] * n_rows), column.transform
        if isinstance(transform, MultiHot):
            found = raw if isinstance(raw, Labels) else as_labels(raw)
            feature_V = _features(transform, found.values)[found.code_V]
            known_V = feature_V >= 0
            content_NC[found.row_V[known_V], c + feature_V[known_V]] = 1
            c += len(column.content())
        elif isinstance(transform, Project):
            width = len(transform.axes)
            attributes_NA[:, a : a + width] = _project(transform, as_vectors(raw, len(transform.mean)), column.missing)
            a += width
        else:
            assert isinstance(transform, Standardise), f"{column.name} is no column of a table"
            number_N = _standardise(transform, as_numbers(raw, column.dtype))
            attributes_NA[:, a] = np.where(np.isnan(number_N), column.missing, number_N)
            a += 1
    return TableFeatures(content, content_NC, attributes, attributes_NA)


def as_labels(values: Sequence[Any] | Array) -> Labels:
    """Text, lists of text, and whole numbers, which are labels in decimal form. Empty text is missing."""
    rows, codes, code_of = [], [], dict[str, int]()
    for row, value in enumerate(values):
        for entry in value if isinstance(value, list | tuple | np.ndarray) else (value,):
            whole = isinstance(entry, int | np.integer) and not isinstance(entry, bool)
            label = str(entry) if whole else entry
            if isinstance(label, str) and label:
                rows.append(row)
                codes.append(code_of.setdefault(label, len(code_of)))
    return Labels(np.array(rows, np.int64), np.array(codes, np.int64), list(code_of))


def as_numbers(values: Sequence[Any] | Array, dtype: Dtype = "float64") -> Array:
    """float64 [N], NaN where missing. True is 1; times are in seconds.

    Dates and timestamps may be ISO 8601 text; without a zone they are in UTC.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        number_N = values.astype(np.float64)
    elif isinstance(values, np.ndarray) and values.dtype.kind in "mM":
        number_N = values.astype(f"{values.dtype.kind}8[us]").astype(np.int64) / 1e6
        number_N[np.isnat(values)] = np.nan
    else:
        read = _seconds if dtype in ("date", "timestamp") else _number
        number_N = np.fromiter(map(read, values), np.float64, len(values))
    return np.where(np.isfinite(number_N), number_N, np.nan)


def as_vectors(values: Sequence[Any] | Array, dimensions: int) -> Array:
    """float [N, D], all NaN in rows that are no `dimensions` finite numbers."""
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "biuf":
        if values.shape[1] != dimensions:
            return np.full((len(values), dimensions), np.nan)
        vector_ND = values if values.dtype.kind == "f" else values.astype(np.float64)
    else:
        vector_ND = np.full((len(values), dimensions), np.nan)
        for row, value in enumerate(values):
            if isinstance(value, list | tuple | np.ndarray) and len(value) == dimensions:
                vector_ND[row] = np.fromiter(map(_number, value), np.float64, dimensions)
    missing_N = ~np.isfinite(vector_ND).all(axis=1)
    return np.where(missing_N[:, None], np.nan, vector_ND) if missing_N.any() else vector_ND


def _features(transform: MultiHot, labels: Sequence[str]) -> Array:
    """[U]: the feature of each label among those of the column, -1 if it is unknown."""
    place = {value: at for at, value in enumerate(transform.values)}
    feature_U = np.empty(len(labels), np.int64)
    for u, label in enumerate(labels):
        at = place.get(label, PAD)
        if at == PAD and transform.buckets:
            hashed = zlib.crc32(label.encode("utf-8", "surrogatepass"), transform.seed)
            at = len(place) + hashed % transform.buckets
        feature_U[u] = at
    return feature_U


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _standardise(transform: Standardise, number_N: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if transform.log:
            number_N = np.log1p(np.where(number_N > -1, number_N, np.nan))
        standardised: Array = np.clip((number_N - transform.center) / transform.scale, -transform.clip, transform.clip)
    return standardised


def _project(transform: Project, vector_ND: Array, missing: float) -> Floats:
    """Sums row by row; a matrix product would round differently with the number of rows."""
    mean_D = np.array(transform.mean)
    found_NA = np.empty((len(vector_ND), len(transform.axes)), np.float32)
    for start in range(0, len(vector_ND), _CHUNK):
        end = start + _CHUNK
        with np.errstate(over="ignore", invalid="ignore"):
            from_mean_ND = np.ascontiguousarray(vector_ND[start:end] - mean_D)
            for a, axis in enumerate(transform.axes):
                along_N = np.clip((from_mean_ND * np.array(axis)).sum(axis=1), -transform.clip, transform.clip)
                found_NA[start:end, a] = np.where(np.isnan(along_N), missing, along_N)
    return found_NA


def _number(value: Any) -> float:
    """A number or a time as a number, NaN if it is neither."""
    try:
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, date):
            return (value - date(1970, 1, 1)).total_seconds()
        if isinstance(value, timedelta):
            return value.total_seconds()
        if isinstance(value, time):
            return value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
        return np.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _seconds(value: Any) -> float:
    try:
        return _number(datetime.fromisoformat(value) if isinstance(value, str) else value)
    except ValueError:
        return np.nan
