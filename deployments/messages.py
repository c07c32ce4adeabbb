"""The messages between the stages: frozen columnar batches, one row per request.

Every column is a numpy array whose name ends in its shape: B requests, H events of history, Y as many or, where the
artifact's features read no types and times of events (`Schema.event_types`), none, K candidates, S retrieval sources,
N answers, D dimensions, F user features, X excluded items, G given items, U items of a shard, R ranks in a source's
list. Items are int32 positions in the artifact's catalogue; -1 is padding. A stage never writes to its input arrays.

`take` and `concat` find the columns by the shape suffix of the field name, so a new field needs no code here. Rows are
independent: `concat([f(a), f(b)]) == f(concat([a, b]))` holds for every stage `f`.
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
Shorts = npt.NDArray[np.int16]
Bools = npt.NDArray[np.bool_]

PAD = -1
"""The padding of every integer column."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Base of all messages: B rows that were made with one model version."""

    model_version: str

    def __len__(self) -> int:
        return len(getattr(self, self._columns()[0][0]))

    @classmethod
    def _columns(cls) -> tuple[tuple[str, str], ...]:
        """(field name, dimension letters) of every column."""
        return _columns_of(cls)  # type: ignore[arg-type]  # mypy takes the instances' __hash__ for the class'

    def take(self, rows: Array | slice) -> Self:
        """The given rows, in that order. `rows`: int indices [R], bool mask [B], or a slice."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name, _ in self._columns()}
        return replace(self, **columns)

    @classmethod
    def concat(cls, batches: Sequence[Self]) -> Self:
        """All rows of `batches` (at least one), in order; ragged second dimensions are padded to the widest.

        Raises:
            VersionMismatch: the batches were made with different model versions.
        """
        first = batches[0]
        if len(batches) == 1:
            return first
        same_model(*batches)
        columns: dict[str, Any] = {
            name: _concat_rows([getattr(b, name) for b in batches]) for name, _ in cls._columns()
        }
        return replace(first, **columns)


@functools.cache
def _columns_of(cls: type[Batch]) -> tuple[tuple[str, str], ...]:
    names = [f.name for f in fields(cls) if "_" in f.name]
    return tuple((name, letters) for name in names if (letters := name.rsplit("_", 1)[1]).isupper())


def _concat_rows(arrays: list[Array]) -> Array:
    if arrays[0].ndim == 1 or len({a.shape[1] for a in arrays}) == 1:
        return np.concatenate(arrays)
    shape = (sum(map(len, arrays)), max(a.shape[1] for a in arrays), *arrays[0].shape[2:])
    joined, row = np.full(shape, _padding_value(arrays[0]), arrays[0].dtype), 0
    for array in arrays:
        joined[row : row + len(array), : array.shape[1]] = array
        row += len(array)
    return joined


def _padding_value(array: Array) -> int:
    return PAD if array.dtype.kind == "i" else 0


def pad_columns(array: Array, width: int) -> Array:
    """Pads axis 1 to at least `width`: integers with PAD, bools with False, floats with 0."""
    missing = width - array.shape[1]
    if missing <= 0:
        return array
    widths = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths, constant_values=_padding_value(array))


def take_columns(array_BK: Array, index_BN: Array) -> Array:
    """`array_BK[b, index_BN[b, n]]`, [B, N, …]. Saves about 20 µs a call over np.take_along_axis."""
    gathered: Array = array_BK[np.arange(len(array_BK))[:, None], index_BN]
    return gathered


def same_model(*batches: Batch) -> str:
    """The one model version of `batches`.

    Raises:
        VersionMismatch: the versions differ, as can happen during a rollout.
    """
    versions = {b.model_version for b in batches}
    if len(versions) != 1:
        raise VersionMismatch(sorted(versions))
    return versions.pop()


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on item attributes; all clauses must hold.

    `one_of`: attribute → accepted values; a multi-valued attribute passes if any of its values is accepted.
    `between`: numeric attribute → (lowest, highest), both inclusive, ±inf where open.
    """

    one_of: tuple[tuple[str, tuple[str, ...]], ...] = ()
    between: tuple[tuple[str, tuple[float, float]], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestBatch(Batch):
    """B requests. The tables `filters` and `contexts` hold each distinct value once; rows index them."""

    n_B: Ints
    """Number of answers requested."""
    excluded_BX: Ints
    """Items that the answer must not contain, -1 padded."""
    given_BG: Ints
    """The caller's own candidates (`/v1/rank`), -1 padded. A row with any is answered from these alone."""
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
        """As Batch.concat; the tables are appended, and the rows index the joined tables."""
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
    """The events of each user, oldest first, -1 padded at the end. An unknown user has an empty row."""

    item_BH: Ints
    timestamp_BH: Times
    """Unix seconds."""
    weight_BH: Floats
    """Preference that the event shows: for (> 0) or against (< 0) the item; see `EventType.strength`."""
    seen_BH: Bools
    """Whether the event takes its item out of this answer; see `EventType.seen`."""
    type_BY: Shorts
    """Position of the event's type in the artifact's `Schema.event_types`, -1: another."""
    age_BY: Floats
    """Seconds from the event to the request."""
    features_BF: Floats
    """The user's other features, as in training; F may be 0."""

    def last_event_times(self) -> Times:
        """Unix seconds of each user's last event, NaN without events. float64 [B]."""
        last_B = np.where(self.item_BH >= 0, self.timestamp_BH, -np.inf).max(axis=1, initial=-np.inf)
        return np.where(np.isfinite(last_B), last_B, np.nan)


@dataclass(frozen=True, slots=True)
class ProfileBatch(Batch):
    """The users as the models read them: history and user vector."""

    item_BH: Ints
    weight_BH: Floats
    seen_BH: Bools
    type_BY: Shorts
    age_BY: Floats
    """As in HistoryBatch."""
    user_vector_BD: Floats
    """Output of the user tower; its dot product with an item vector is a score."""
    features_BF: Floats
    """As in HistoryBatch."""
    cold_B: Bools
    """True for users with too few events: their answers come from popularity."""

    @property
    def seen_item_BH(self) -> Ints:
        """The items that this answer must not contain because of the user's events, -1 elsewhere."""
        return np.where(self.seen_BH, self.item_BH, np.int32(PAD))


@dataclass(frozen=True, slots=True)
class CandidateBatch(Batch):
    """Up to K items per request, with the source of each. Padding: mask False, item -1."""

    item_ids_BK: Ints
    retrieval_scores_BK: Floats
    """Higher is better. The answer is in this order if the scoring stage fails."""
    source_BK: npt.NDArray[np.int8]
    """The source that ranks the item highest: position in `sources`; -1 padding."""
    source_scores_BKS: Floats
    """Each source's score of the item, proposed by that source or not, scaled per request to about 0..1."""
    mask_BK: Bools
    sources: tuple[str, ...]
    shards: tuple[int, int] = (1, 1)
    """(shards that answered, shards of the catalogue)."""

    def items_only(self) -> CandidateBatch:
        """Without the sources' scores: three quarters of the bytes, which the ranking stage does not read."""
        return replace(self, source_scores_BKS=self.source_scores_BKS[:, :, :0], sources=())


@dataclass(frozen=True, slots=True)
class ShardBatch(Batch):
    """The answer of one shard of the catalogue, before the shards are merged. Padding: item -1."""

    item_BU: Ints
    raw_BUS: Floats
    """Each source's score of the item, not scaled."""
    list_BSR: npt.NDArray[np.int16]
    """Each source's list, best first: positions in U, -1 padded."""
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoreBatch(Batch):
    """The ranking model's score of each candidate, aligned with CandidateBatch; -inf on padding."""

    scores_BK: Floats
    ran_on: str = ""
    """Backend and precision that computed the scores, such as `compiled-fp32`."""
    fallback_reason: str = ""
    """Why the configured backend did not run; empty: it ran."""

    def missing_rows(self) -> list[int]:
        """The rows without scores: those that contain NaN."""
        rows: list[int] = np.flatnonzero(np.isnan(self.scores_BK).any(axis=1)).tolist()
        return rows

    def fill_missing(self, others: ScoreBatch) -> ScoreBatch:
        """These scores, with `others' where this batch has NaN."""
        return replace(others, scores_BK=np.where(np.isnan(self.scores_BK), others.scores_BK, self.scores_BK))


@dataclass(frozen=True, slots=True)
class RankedBatch(Batch):
    """The answer: up to N candidates per request, best first. Padding: choice -1."""

    choice_BN: Ints
    """Index into K of the CandidateBatch ranked here."""
    score_BN: Floats
    """The model score after boost and bury rules."""
    score_rank_BN: Ints
    """0-based rank by model score alone."""
    diversity_penalty_BN: Floats
    """Subtracted from the item's relevance by the diversity step, ≥ 0."""
    rule_BN: Ints
    """Index of the business rule that moved the item, -1: none."""
