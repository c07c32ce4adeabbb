"""Fits the transforms of the items' and users' columns: which columns become features, and with which numbers.

Text becomes content values (vocabulary.py); numbers, times and vectors become attributes. A column that can't be used
is left out, and a sentence says so; no table is refused.

Shapes: N rows, D dimensions of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deployments.artifact.arrow_types import Values, numbers, read
from deployments.messages import Array
from deployments.models.features.arrow_columns import labels, table_features, vectors
from deployments.models.features.transforms import (
    Column,
    Dtype,
    Project,
    Source,
    Standardise,
    TableFeatures,
    as_vectors,
)
from graphs.data.dataset import Dataset
from graphs.fit.vocabulary import LabelCounts, fit_vocabularies

CLIP = 5.0
"""Standardised numbers are clipped to ± this."""

SKEWED = 5.0
"""A number that is never negative and whose 99th percentile is over SKEWED times its median is taken as log(1 + x)."""

AXES, VARIANCE = 8, 0.9
"""A vector becomes its main axes: as many as hold VARIANCE of its variance, AXES at most."""

MAX_DIMENSIONS = 2048
SAMPLE = 20_000
"""Rows that the axes are fitted on, at most."""

AGREEING = 0.9
"""Lists of numbers are vectors if at least this share of them has one length."""


class Limits(NamedTuple):
    """Most features of a table: labels with a feature of their own, hash buckets, attributes."""

    values: int
    buckets: int
    attributes: int


LIMITS: dict[Source, Limits] = {"item": Limits(256, 128, 64), "user": Limits(64, 32, 32)}
"""A feature of users is an input of the ranking model, an attribute of items is seven."""


@dataclass(frozen=True, slots=True)
class DatasetFeatures:
    """The fitted columns of both tables, and the features of the rows of `Dataset.items` and `Dataset.user_table`."""

    columns: list[Column]
    items: TableFeatures
    users: TableFeatures | None
    notes: list[str]
    """What is left out or shortened, a sentence each."""


def fit_features(dataset: Dataset) -> DatasetFeatures:
    """Fits the transforms of both tables, and applies them."""
    items, notes = fit_columns(dataset.items, "item")
    if dataset.user_table is None:
        return DatasetFeatures(items, table_features(items, dataset.items), None, notes)
    users, user_notes = fit_columns(dataset.user_table, "user")
    return DatasetFeatures(
        items + users,
        table_features(items, dataset.items),
        table_features(users, dataset.user_table),
        notes + user_notes,
    )


def fit_columns(table: pa.Table, source: Source) -> tuple[list[Column], list[str]]:
    """The columns of `table` that become features, in its order; and notes. Ids and titles are none."""
    fitted: dict[str, Column] = {}
    texts: list[LabelCounts] = []
    shapes: dict[str, tuple[int | None, ...]] = {}
    said: dict[str, str] = {}
    room = LIMITS[source].attributes
    names = [name for name in table.column_names if name not in ("item_id", "user_id", "title")]
    for name in names:
        values = read(table[name])
        try:
            if values.meaning in ("text", "labels"):
                texts.append(LabelCounts.of(name, labels(values)))
                shapes[name] = () if values.meaning == "text" else (None,)
                continue
            if not room:
                raise _LeftOut(f"the columns before it fill the {LIMITS[source].attributes} attributes of a table")
            if values.meaning == "vector":
                column, said[name] = _vector(name, source, values, table, room)
            else:
                column = _number(name, source, values, table[name])
            fitted[name] = column
            room -= len(column.attributes())
        except _LeftOut as why:
            said[name] = f"left out: {why}"
    found = fit_vocabularies(texts, len(table), LIMITS[source].values, LIMITS[source].buckets)
    for text, (transform, sentence) in zip(texts, found, strict=True):
        said[text.name] = sentence
        if transform:
            fitted[text.name] = Column(
                name=text.name, source=source, dtype="string", shape=shapes[text.name], missing=0.0, transform=transform
            )
    notes = [f"{source}s, column {name}: {said[name]}" for name in names if said.get(name)]
    return [fitted[name] for name in names if name in fitted], notes


class _LeftOut(Exception):
    """Why a column can't be used."""


def _number(name: str, source: Source, values: Values, column: pa.ChunkedArray) -> Column:
    if values.meaning == "unusable":
        if column.null_count == len(column):
            raise _LeftOut("it holds no value")
        raise _LeftOut(f"its type is {column.type}; used are text, numbers, times, and lists of text or numbers")
    value_N = numbers(values)
    known = value_N[np.isfinite(value_N)]
    if not len(known):
        raise _LeftOut("it holds no value")
    if known.min() == known.max():
        raise _LeftOut("it holds one value alone")
    log = values.meaning in ("integer", "float", "decimal") and _is_skewed(known)
    if log:
        known = np.log1p(known)
    with np.errstate(over="ignore", invalid="ignore"):
        center, scale = float(np.median(known)), float(known.std())
    if not (np.isfinite(center) and 0 < scale < np.inf):
        raise _LeftOut(f"its numbers, up to {np.abs(known).max():.3g}, can't be standardised")
    dtypes: dict[str, Dtype] = {"integer": "int64", "float": "float64"}
    return Column(
        name=name,
        source=source,
        dtype=dtypes.get(values.meaning, values.meaning),  # type: ignore[arg-type]
        shape=(),
        missing=0.0,
        transform=Standardise(log=log, center=center, scale=scale, clip=CLIP),
    )


def _is_skewed(known: Array) -> bool:
    """`known`: finite numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        middle, high = np.quantile(known, [0.5, 0.99])
    return bool(known.min() >= 0 and high > SKEWED * middle)


def _vector(name: str, source: Source, values: Values, table: pa.Table, room: int) -> tuple[Column, str]:
    """The column with at most `room` axes, and a sentence on rows that are no such vectors."""
    length_N = np.bincount(values.row_V, minlength=len(table))
    some = length_N[length_N > 0]
    if not len(some):
        raise _LeftOut("it holds no value")
    dimensions = int(np.bincount(some).argmax())
    if (some == dimensions).mean() < AGREEING:
        raise _LeftOut(f"its lists of numbers have {some.min()} to {some.max()} entries; vectors have one length")
    if dimensions > MAX_DIMENSIONS:
        raise _LeftOut(f"its vectors have {dimensions:,} dimensions; give it {MAX_DIMENSIONS:,} or fewer")
    vector_ND = as_vectors(vectors(values, len(table), dimensions), dimensions)
    known_N = np.isfinite(vector_ND[:, 0])
    transform = _axes(vector_ND[known_N], room)
    bad = np.flatnonzero(~known_N & (length_N > 0))
    said = ""
    if len(bad):
        first = table.column(f"{source}_id")[int(bad[0])].as_py()
        said = f"{len(bad):,} rows are not {dimensions} finite numbers and count as missing"
        said += f"; the first is of {source} {first!r}"
    single = vector_ND.dtype == np.float32
    column = Column(
        name=name,
        source=source,
        dtype="float32" if single else "float64",
        shape=(dimensions,),
        missing=0.0,
        transform=transform,
    )
    return column, said


def _axes(known_ND: Array, room: int) -> Project:
    """Principal axes of the standardised dimensions, each scaled to variance 1; the largest part of an axis is > 0."""
    sample = known_ND[:: -(-len(known_ND) // SAMPLE)].astype(np.float64) if len(known_ND) else known_ND
    with np.errstate(over="ignore", invalid="ignore"):
        mean_D, spread_D = (sample.mean(axis=0), sample.std(axis=0)) if len(sample) else (np.zeros(1), np.zeros(1))
    if not (np.isfinite(mean_D).all() and np.isfinite(spread_D).all()):
        raise _LeftOut("its numbers are too large to standardise")
    spread_D[spread_D < 1e-12 * np.abs(mean_D)] = 0  # differences by rounding alone
    if not spread_D.any():
        raise _LeftOut("it holds one value alone")
    standard_ND = np.divide(sample - mean_D, spread_D, out=np.zeros_like(sample), where=spread_D > 0)
    variance_D, axis_DA = np.linalg.eigh(standard_ND.T @ standard_ND / len(sample))
    variance_D, axis_AD = variance_D[::-1], axis_DA.T[::-1]
    share_D = variance_D.cumsum() / variance_D.sum()
    count = min(int(np.searchsorted(share_D, VARIANCE)) + 1, AXES, room, int((variance_D > 1e-9).sum()))
    axes = []
    for variance, axis_D in zip(variance_D[:count], axis_AD, strict=False):
        sign = np.sign(axis_D[np.abs(axis_D).argmax()])
        scaled_D = np.divide(sign * axis_D / np.sqrt(variance), spread_D, out=np.zeros_like(axis_D), where=spread_D > 0)
        if not np.isfinite(scaled_D).all():
            raise _LeftOut("its numbers are too close to each other to standardise")
        axes.append(_short(scaled_D))
    return Project(mean=_short(mean_D), axes=tuple(axes), clip=CLIP)


def _short(values: Array) -> tuple[float, ...]:
    """Nine digits say all that single precision holds."""
    return tuple(float(f"{value:.9g}") for value in values.tolist())
