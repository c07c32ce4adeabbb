"""What travels between the stages: frozen columnar batches.

Every field is a numpy array whose name ends in its shape: B requests, H events of history, K candidates,
S retrieval sources, N answers, D dimensions, F user features, X excluded items, G items to rank as given, U items of a
part of the catalogue, R places in a source's list. Items are int32 positions in the artifact's catalogue; -1 is
padding. A stage never writes to the arrays it is given.

`take` and `concat` work on any message: they follow the shape suffix of the field name, so a new field needs
no code here. Rows are independent: `concat([f(a), f(b)]) == f(concat([a, b]))` holds for every stage.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from deployments.errors import VersionMismatch

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

PAD = -1
"""Fills the unused tail of every integer column."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Base of all messages: rows, one model version."""

    model_version: str

    def __len__(self) -> int:
        return len(getattr(self, self._columns()[0][0]))

    @classmethod
    def _columns(cls) -> tuple[tuple[str, str], ...]:
        """(field name, its dimension letters) of every row-wise array."""
        return _columns_of(cls)  # type: ignore[arg-type]  # mypy takes the instances' __hash__ for the class'

    def take(self, rows: Array | slice) -> Self:
        """The given rows, in that order. `rows`: int indices [R], bool mask [B], or a slice."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name, _ in self._columns()}
        return replace(self, **columns)

    @classmethod
    def concat(cls, batches: Sequence[Self]) -> Self:
        """All rows of `batches`, in order; ragged second dimensions are padded to the widest.

        Raises:
            VersionMismatch: the batches were made with different models.
        """
        first = batches[0]
        if len(batches) == 1:
            return first
        same_model(*batches)
        columns: dict[str, Any] = {name: _stack([getattr(b, name) for b in batches]) for name, _ in cls._columns()}
        return replace(first, **columns)


@functools.cache
def _columns_of(cls: type[Batch]) -> tuple[tuple[str, str], ...]:
    names = [f.name for f in fields(cls) if "_" in f.name]
    return tuple((name, letters) for name in names if (letters := name.rsplit("_", 1)[1]).isupper())


def _stack(parts: list[Array]) -> Array:
    if parts[0].ndim == 1 or len({p.shape[1] for p in parts}) == 1:
        return np.concatenate(parts)
    shape = (sum(map(len, parts)), max(p.shape[1] for p in parts), *parts[0].shape[2:])
    stacked, row = np.full(shape, _filler(parts[0]), parts[0].dtype), 0
    for part in parts:
        stacked[row : row + len(part), : part.shape[1]] = part
        row += len(part)
    return stacked


def _filler(array: Array) -> int:
    return PAD if array.dtype.kind == "i" else 0


def pad_columns(array: Array, width: int) -> Array:
    """Widens axis 1 to `width`: integers with PAD, bools with False, floats with 0."""
    missing = width - array.shape[1]
    if missing <= 0:
        return array
    widths = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths, constant_values=_filler(array))


def at(array_BK: Array, index_BN: Array) -> Array:
    """`array_BK[b, index_BN[b, n]]`, [B, N, …]: np.take_along_axis without its Python, some 20 µs a call."""
    gathered: Array = array_BK[np.arange(len(array_BK))[:, None], index_BN]
    return gathered


def same_model(*batches: Batch) -> str:
    """The one model version of `batches`.

    Raises:
        VersionMismatch: they were made with different models, as can happen during a rollout.
    """
    versions = {b.model_version for b in batches}
    if len(versions) != 1:
        raise VersionMismatch(sorted(versions))
    return versions.pop()


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on item attributes; all clauses must hold.

    `one_of`: attribute → accepted values (a multi-valued attribute matches if any of its values is accepted).
    `between`: numeric attribute → (lowest, highest), both inclusive, ±inf where open.
    """

    one_of: tuple[tuple[str, tuple[str, ...]], ...] = ()
    between: tuple[tuple[str, tuple[float, float]], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestBatch(Batch):
    """What B callers ask for. Tables (`filters`, `contexts`) hold each distinct value once; rows index them."""

    n_B: Ints
    """Answers wanted."""
    excluded_BX: Ints
    """Items the caller does not want, -1 padded."""
    given_BG: Ints
    """Items to rank as given (`/v1/rank`), -1 padded. A row with any is answered from these alone."""
    filter_B: Ints
    """Row of `filters`, -1: none."""
    context_B: Ints
    """Row of `contexts`, -1: none."""
    filters: tuple[Filter, ...] = ()
    contexts: tuple[Mapping[str, str | float | bool], ...] = ()

    def chosen_by_caller(self) -> Bools:
        """True for rows that are answered from `given_BG`. bool [B]."""
        return np.asarray((self.given_BG >= 0).any(axis=1))

    @classmethod
    def concat(cls, batches: Sequence[Self]) -> Self:
        """As Batch.concat; the tables are appended and the rows re-pointed."""
        shifted: list[Self] = []
        filters: tuple[Filter, ...] = ()
        contexts: tuple[Mapping[str, str | float | bool], ...] = ()
        for b in batches:
            shifted.append(
                replace(
                    b,
                    filter_B=np.where(b.filter_B >= 0, b.filter_B + len(filters), PAD).astype(np.int32),
                    context_B=np.where(b.context_B >= 0, b.context_B + len(contexts), PAD).astype(np.int32),
                )
            )
            filters += b.filters
            contexts += b.contexts
        return replace(super(RequestBatch, cls).concat(shifted), filters=filters, contexts=contexts)


@dataclass(frozen=True, slots=True)
class HistoryBatch(Batch):
    """What each user did: oldest first, -1 padded at the end. An unknown user has an empty row."""

    item_BH: Ints
    timestamp_BH: Times
    """Unix seconds."""
    weight_BH: Floats
    """How strongly the event speaks for (> 0) or against (< 0) the item; see `StoreConfig.event_weights`."""
    features_BF: Floats
    """What is known of the user besides, as trained with; F may be 0."""

    def latest(self) -> Times:
        """Unix seconds of each user's last event, NaN: none. float64 [B]."""
        last_B = np.where(self.item_BH >= 0, self.timestamp_BH, -np.inf).max(axis=1, initial=-np.inf)
        return np.where(np.isfinite(last_B), last_B, np.nan)


@dataclass(frozen=True, slots=True)
class ProfileBatch(Batch):
    """A user as the models see one: the history and the user tower's vector."""

    item_BH: Ints
    weight_BH: Floats
    user_vector_BD: Floats
    """Output of the user tower, comparable with the item vectors by dot product."""
    features_BF: Floats
    """As in HistoryBatch."""
    cold_B: Bools
    """True where nothing is known of the user: answers come from popularity."""


@dataclass(frozen=True, slots=True)
class CandidateBatch(Batch):
    """Up to K items per request worth scoring, with where each came from. Padding: mask False, item -1."""

    item_ids_BK: Ints
    retrieval_scores_BK: Floats
    """One comparable number per candidate, higher is better; what the answer is ordered by if scoring fails."""
    source_BK: npt.NDArray[np.int8]
    """The source that ranked it highest: position in `sources`; -1 padding."""
    source_scores_BKS: Floats
    """What each source gives the item, proposed by it or not, scaled by the best it gives this request."""
    mask_BK: Bools
    sources: tuple[str, ...]
    parts: tuple[int, int] = (1, 1)
    """Parts of the catalogue that these come from, and how many there are."""
    share: float = 1.0
    """Of the columns that there were before the batch's quality was lowered."""

    def items_only(self) -> CandidateBatch:
        """Without what each source gives: three quarters of the bytes, which the ranking stage has no use for."""
        return replace(self, source_scores_BKS=self.source_scores_BKS[:, :, :0], sources=())


@dataclass(frozen=True, slots=True)
class PartBatch(Batch):
    """What the sources of one part of the catalogue say, before the parts are merged. Padding: item -1."""

    item_BU: Ints
    raw_BUS: Floats
    """What each source gives the item, as it is."""
    list_BSR: npt.NDArray[np.int16]
    """Each source's list, best first: positions in U, -1 padded."""
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoreBatch(Batch):
    """The model's score of each candidate, aligned with CandidateBatch; -inf on padding."""

    scores_BK: Floats
    ran_on: str = ""
    """Backend and precision of the model."""
    instead: str = ""
    """Why that is another one than configured; empty: it is as configured."""

    def missing(self) -> list[int]:
        """The rows without scores, which hold NaN."""
        rows: list[int] = np.flatnonzero(np.isnan(self.scores_BK).any(axis=1)).tolist()
        return rows

    def or_else(self, others: ScoreBatch) -> ScoreBatch:
        """These scores, and in the rows without any `others`'."""
        return replace(others, scores_BK=np.where(np.isnan(self.scores_BK), others.scores_BK, self.scores_BK))


@dataclass(frozen=True, slots=True)
class RankedBatch(Batch):
    """The answer: up to N candidates per request, best first. Padding: choice -1."""

    choice_BN: Ints
    """Index into K of the CandidateBatch ranked here."""
    score_BN: Floats
    """The score it was finally ordered by (model score after rules)."""
    score_rank_BN: Ints
    """0-based place it had by model score alone."""
    diversity_penalty_BN: Floats
    """What diversity subtracted from its score when it was chosen, ≥ 0."""
    rule_BN: Ints
    """Index of the business rule that moved it, -1: none."""
