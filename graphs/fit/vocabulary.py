"""Fits the labels of text columns: which get a feature of their own, which share hash buckets, which are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deployments.models.features.transforms import Labels, MultiHot

MIN_ROWS, FEW_ROWS = 5, 500
"""A label needs MIN_ROWS rows for a feature of its own; in tables of less than FEW_ROWS rows it needs 2."""

VALUES = 64
"""Most labels of a column with a feature of their own."""

LONGEST = 100
"""Most characters of a label with a feature of its own."""

BUCKETS = 32
"""Most hash buckets of a column."""

REPEATS = 2
"""The labels without a feature of their own are hashed if they have this many rows on average, else left out."""


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """The labels of a column, each with the number of its rows; most frequent first, then by name."""

    name: str
    rows: dict[str, int]

    @classmethod
    def of(cls, name: str, labels: Labels) -> LabelCounts:
        """Counts a label once per row."""
        pair_V = np.unique(labels.row_V * max(len(labels.values), 1) + labels.code_V)
        count_U = np.bincount(pair_V % max(len(labels.values), 1), minlength=len(labels.values)).tolist()
        counted = sorted(zip(labels.values, count_U, strict=True), key=lambda entry: (-entry[1], entry[0]))
        return cls(name, dict(counted))


def fit_vocabularies(
    columns: Sequence[LabelCounts], n_rows: int, max_values: int, max_buckets: int
) -> list[tuple[MultiHot | None, str]]:
    """Per column its transform, None if it is left out, and what to say of it, "" for nothing.

    All columns together get `max_values` features for labels, the most frequent of all, and `max_buckets` buckets.
    """
    least = MIN_ROWS if n_rows >= FEW_ROWS else 2
    own = [_frequent(column, n_rows, least) for column in columns]
    ranked = sorted(
        (-column.rows[label], f"{column.name}={label}", at, label)
        for at, column in enumerate(columns)
        for label in own[at]
    )
    kept: list[list[str]] = [[] for _ in columns]
    for _, _, at, label in ranked[:max_values]:
        kept[at].append(label)
    others = [_others(column, n_rows, labels) for column, labels in zip(columns, kept, strict=True)]
    hashed = [sum(rows.values()) >= REPEATS * len(rows) and len(rows) > 1 for rows in others]
    share = min(BUCKETS, max_buckets // max(sum(hashed), 1))
    found: list[tuple[MultiHot | None, str]] = []
    for column, labels, rest, is_hashed in zip(columns, kept, others, hashed, strict=True):
        buckets = min(share, len(rest) // 2) if is_hashed else 0
        transform = MultiHot(values=tuple(sorted(labels)), buckets=buckets, seed=0) if labels or buckets else None
        found.append((transform, _said(column, n_rows, least, labels, rest, buckets)))
    return found


def _frequent(column: LabelCounts, n_rows: int, least: int) -> list[str]:
    fits = [label for label, rows in column.rows.items() if least <= rows < n_rows and len(label) <= LONGEST]
    return fits[:VALUES]


def _others(column: LabelCounts, n_rows: int, kept: Sequence[str]) -> dict[str, int]:
    """The labels without a feature of their own, but those of every row, which say nothing."""
    known = set(kept)
    return {label: rows for label, rows in column.rows.items() if label not in known and rows < n_rows}


def _said(column: LabelCounts, n_rows: int, least: int, kept: Sequence[str], rest: dict[str, int], buckets: int) -> str:
    if not column.rows:
        return "left out: it holds no value"
    if not kept and not rest:
        return f"left out: every row has {next(iter(column.rows))[:LONGEST]!r}"
    if not kept and not buckets:
        return f"left out: hardly any of its {len(column.rows):,} values is in {least} rows"
    if not rest:
        return ""
    some = (
        f"{len(kept):,} of its {len(column.rows):,} values are features, the most frequent ones in {least} rows or more"
    )
    if buckets:
        return f"{some}; the other {len(rest):,} share {buckets} hash buckets"
    return f"{some}; the other {len(rest):,} are left out"
