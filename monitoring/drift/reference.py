"""The reference that live traffic is compared with: measured rows, stored as a table, and the cells cut from them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from monitoring.drift.histograms import Cells, Columns, Histograms, Labels

REFERENCE_FILE = "reference.parquet"
"""In the artifact: the measured rows."""

BASIS_FILE = "reference_basis.safetensors"
"""In the artifact: mean_D and axes_PD of the reference's user vectors."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Measured rows, the cells cut at their quantiles, and their histograms."""

    rows: Columns
    cells: Cells
    histograms: Histograms

    @classmethod
    def of(cls, rows: Columns) -> Reference:
        """The reference of measured rows."""
        cells = Cells.of(rows)
        return cls(rows, cells, cells.count(rows))


def to_table(rows: Columns) -> pa.Table:
    """A table with a column per number and per label; its metadata lists the signals in order."""
    fields: dict[str, pa.Array] = {"weight": pa.array(rows.weight_B)}
    for name, value_B in rows.numbers.items():
        fields[name] = pa.array(value_B.astype(np.float32))
    for name, column in rows.labels.items():
        for label, share_B in zip(column.names, column.share_BL.T, strict=True):
            fields[f"{name}|{label}"] = pa.array(np.ascontiguousarray(share_B))
    signals = {"numbers": list(rows.numbers), "labels": {name: list(c.names) for name, c in rows.labels.items()}}
    return pa.table(fields).replace_schema_metadata({"signals": json.dumps(signals)})


def from_table(table: pa.Table) -> Columns:
    """The rows of a table that `to_table` wrote.

    Raises:
        ValueError: it is another table.
    """
    try:
        signals = json.loads(table.schema.metadata[b"signals"])

        def column(name: str) -> np.ndarray:
            found: np.ndarray = table.column(name).to_numpy()
            return found

        labels = {}
        for name, names in signals["labels"].items():
            shares = [column(f"{name}|{label}") for label in names]
            share_BL = np.stack(shares, axis=1) if shares else np.zeros((len(table), 0))
            labels[name] = Labels(tuple(names), share_BL.astype(np.float32))
        return Columns(
            weight_B=column("weight").astype(np.float64),
            numbers={name: column(name).astype(np.float32) for name in signals["numbers"]},
            labels=labels,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the table holds no measured rows ({error!r})") from None
