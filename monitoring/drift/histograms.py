"""Mergeable histograms of many signals at once, with edges that a reference fixes.

Shapes: B rows (requests), S signals, M cells of the widest histogram, L labels.

The cells of a number are cut at quantiles of the reference. A value that fills a whole quantile (such as n = 10) has a
cell of its own, so that values above and below a constant fall into other cells. A signal of labels has a cell per
label of the reference, and one for all other labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

CELLS = 10
"""Quantile cells of a number without ties."""

OTHER = "other"


@dataclass(frozen=True, slots=True)
class Labels:
    """A column of labels. `share_BL`: share of each label in the row; a row sums to 1, or to 0 if it has no label.

    Most rows have one label; the sources of an answer with ten items are ten tenths.
    """

    names: tuple[str, ...]
    share_BL: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Columns:
    """Measured rows. A missing number is NaN; `weight_B`: 1 / the probability that the row was sampled."""

    weight_B: Doubles
    numbers: Mapping[str, npt.NDArray[np.float32]]
    labels: Mapping[str, Labels]

    def __len__(self) -> int:
        return len(self.weight_B)

    def take(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Columns:
        """Some of the rows."""
        return Columns(
            weight_B=self.weight_B[rows],
            numbers={name: value[rows] for name, value in self.numbers.items()},
            labels={name: Labels(value.names, value.share_BL[rows]) for name, value in self.labels.items()},
        )


def concat(parts: Sequence[Columns]) -> Columns:
    """All rows of `parts`, which must have the same signals; labels are matched by name."""
    labels: dict[str, Labels] = {}
    for signal in parts[0].labels:
        names = tuple(dict.fromkeys(name for part in parts for name in part.labels[signal].names))
        share_BL = np.zeros((sum(map(len, parts)), len(names)), np.float32)
        start = 0
        for part in parts:
            own = part.labels[signal]
            share_BL[start : start + len(part), [names.index(name) for name in own.names]] = own.share_BL
            start += len(part)
        labels[signal] = Labels(names, share_BL)
    return Columns(
        weight_B=np.concatenate([part.weight_B for part in parts]),
        numbers={name: np.concatenate([part.numbers[name] for part in parts]) for name in parts[0].numbers},
        labels=labels,
    )


class Cells:
    """The cells of every signal of a reference. `numbers`: signal → upper ends; `labels`: signal → names."""

    def __init__(self, numbers: Mapping[str, Doubles], labels: Mapping[str, tuple[str, ...]]) -> None:
        self.numbers, self.labels = dict(numbers), dict(labels)
        self.signals = (*self.numbers, *self.labels)
        self.is_number_S = np.arange(len(self.signals)) < len(self.numbers)
        sizes = [len(cuts) + 1 for cuts in self.numbers.values()] + [len(names) + 1 for names in self.labels.values()]
        self.size_S = np.array(sizes, np.int64)
        self.shape = (len(self.signals), max(sizes, default=0))

    @classmethod
    def of(cls, reference: Columns) -> Cells:
        """The cells of `reference`; a signal without any value is left out."""
        numbers = {}
        for name, value_B in reference.numbers.items():
            present = value_B[np.isfinite(value_B)].astype(np.float64)
            if len(present):
                numbers[name] = _cuts(present)
        labels = {
            name: tuple(n for n, total in zip(column.names, column.share_BL.sum(axis=0), strict=True) if total > 0)
            for name, column in reference.labels.items()
            if column.share_BL.any()
        }
        return cls(numbers, labels)

    def count(self, columns: Columns) -> Histograms:
        """The histograms of rows; signals that the rows do not have stay empty."""
        counts_SM, sums_SM = np.zeros(self.shape), np.zeros(self.shape)
        squares_S, missing_S = np.zeros(len(self.signals)), np.zeros(len(self.signals))
        weight_B = columns.weight_B
        for s, (name, cuts) in enumerate(self.numbers.items()):
            if name not in columns.numbers:
                continue
            value_B = columns.numbers[name].astype(np.float64)
            present_B = np.isfinite(value_B)
            value, weight = value_B[present_B], weight_B[present_B]
            cell = np.searchsorted(cuts, value, side="left")
            counts_SM[s] = np.bincount(cell, weight, self.shape[1])
            sums_SM[s] = np.bincount(cell, weight * value, self.shape[1])
            squares_S[s] = weight @ weight
            missing_S[s] = weight_B.sum() - weight.sum()
        for s, (name, names) in enumerate(self.labels.items(), start=len(self.numbers)):
            if name not in columns.labels:
                continue
            column = columns.labels[name]
            cell_of = {label: m for m, label in enumerate(names)}
            for label, share_B in zip(column.names, column.share_BL.T.astype(np.float64), strict=True):
                counts_SM[s, cell_of.get(label, len(names))] += weight_B @ share_B
            present_B = np.asarray(column.share_BL.any(axis=1))
            squares_S[s] = weight_B[present_B] @ weight_B[present_B]
            missing_S[s] = weight_B[~present_B].sum()
        return Histograms(counts_SM, sums_SM, squares_S, missing_S)

    def empty(self) -> Histograms:
        """Histograms of no rows: the neutral element of `merge`."""
        size = len(self.signals)
        return Histograms(np.zeros(self.shape), np.zeros(self.shape), np.zeros(size), np.zeros(size))

    def named(self, signal: str, counts_M: Doubles) -> list[tuple[str, float]]:
        """The counts of one signal with readable names of its cells."""
        if signal in self.labels:
            names = [*self.labels[signal], OTHER]
        else:
            shown = [f"{cut:.4g}" for cut in self.numbers[signal]]
            names = [f"≤ {shown[0]}", *(f"≤ {cut}" for cut in shown[1:]), f"> {shown[-1]}"]
        return [(name, float(count)) for name, count in zip(names, counts_M, strict=False)]


@dataclass(frozen=True, slots=True)
class Histograms:
    """Weighted counts of rows per signal and cell. All fields add up, so parts can be merged in any order."""

    counts_SM: Doubles
    sums_SM: Doubles
    """Weighted sums of the values per cell; 0 for labels."""
    squares_S: Doubles
    """Sums of squared weights."""
    missing_S: Doubles
    """Weight of the rows without the signal."""

    def merge(self, other: Histograms) -> Histograms:
        """The histograms of the rows of both."""
        return Histograms(
            self.counts_SM + other.counts_SM,
            self.sums_SM + other.sums_SM,
            self.squares_S + other.squares_S,
            self.missing_S + other.missing_S,
        )

    def effective_S(self) -> Doubles:
        """Effective sample size (Σw)² / Σw² (Kish 1965, *Survey Sampling*, 11.7); 0 without rows."""
        total_S = self.counts_SM.sum(axis=1)
        effective_S: Doubles = np.zeros_like(total_S)
        np.divide(total_S**2, self.squares_S, out=effective_S, where=self.squares_S > 0)
        return effective_S


def _cuts(values: Doubles) -> Doubles:
    """Upper ends of all cells except the last; a cell is (lower, upper]."""
    quantiles = np.quantile(values, np.linspace(0, 1, CELLS + 1), method="inverted_cdf")
    unique, times = np.unique(quantiles, return_counts=True)
    tied = unique[times > 1]
    inner = quantiles[1:-1] if len(quantiles) > 2 else quantiles
    # The columns are float32, so the next smaller number must be a float32 too.
    below = np.nextafter(tied.astype(np.float32), np.float32(-np.inf)).astype(np.float64)
    cuts: Doubles = np.unique(np.concatenate([inner, tied, below]))
    return cuts
