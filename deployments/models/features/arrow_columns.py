"""Columns of Arrow tables as raw columns for transforms.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.artifact.arrow_types import Values, numbers, read
from deployments.messages import Array
from deployments.models.features.transforms import Column, Labels, MultiHot, Project, Raw, TableFeatures, apply


def table_features(columns: Sequence[Column], table: pa.Table) -> TableFeatures:
    """The features that `columns`, of items or of users, give for the rows of `table`.

    A column that is missing, or whose type no longer fits its transform, counts as missing in every row.
    """
    present = [column for column in columns if column.name in table.column_names]
    raw = {column.name: _raw(column, read(table[column.name]), len(table)) for column in present}
    return apply(columns, {name: value for name, value in raw.items() if value is not None}, len(table))


def labels(values: Values) -> Labels:
    """Of text and labels; empty text is missing."""
    row_V = values.row_V if values.meaning == "labels" else np.arange(len(values.array))
    known = pc.and_kleene(values.array.is_valid(), pc.not_equal(values.array, "")).fill_null(False)
    encoded = values.array.filter(known).dictionary_encode()
    code_V = encoded.indices.to_numpy(zero_copy_only=False)
    return Labels(row_V[known.to_numpy(zero_copy_only=False)], code_V, encoded.dictionary.to_pylist())


def vectors(values: Values, n_rows: int, dimensions: int) -> Array:
    """Of vectors: float [N, D], NaN in rows of another length."""
    single = pa.types.is_floating(values.array.type) and values.array.type.bit_width <= 32
    entry_V = values.array.cast(pa.float32() if single else pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    right_N = np.bincount(values.row_V, minlength=n_rows) == dimensions
    vector_ND = np.full((n_rows, dimensions), np.nan, entry_V.dtype)
    vector_ND[right_N] = entry_V[right_N[values.row_V]].reshape(-1, dimensions)
    return vector_ND


def _raw(column: Column, values: Values, n_rows: int) -> Raw | None:
    if isinstance(column.transform, MultiHot):
        return labels(values) if values.meaning in ("text", "labels") else None
    if isinstance(column.transform, Project):
        return vectors(values, n_rows, len(column.transform.mean)) if values.meaning == "vector" else None
    return None if values.meaning in ("text", "labels", "vector", "unusable") else numbers(values)
