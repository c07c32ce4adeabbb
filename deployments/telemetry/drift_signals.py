"""The drift signals: measures every signal of an answered batch, one row per request.

Live traffic, the reference that training writes and the calibration all use this code. Signals of the user, the
retrieval and the scores are measured for known users alone; so a larger share of new users changes `request.user` and
no score. Items given by the caller (`/v1/rank`) have no retrieval to measure. Shapes as in `messages.py`; P: principal
axes of the user vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deployments.artifact.reader import Artifact
from deployments.messages import (
    PAD,
    Array,
    Bools,
    CandidateBatch,
    Filter,
    Floats,
    Ints,
    RankedBatch,
    RequestBatch,
    take_columns,
)
from deployments.models.features.schema import Schema
from deployments.telemetry.answered_batch import AnsweredBatch
from monitoring.drift.histograms import Columns, Labels
from monitoring.drift.reference import BASIS_FILE

MAX_FEATURES = 32
"""User features that are signals: the first ones of the schema."""

_NO_FILTER = "none"


class DriftSignals:
    """Measures batches. `mean_D`, `axes_PD`: mean and principal axes of the reference's user vectors."""

    def __init__(self, artifact: Artifact, mean_D: Floats, axes_PD: Floats) -> None:
        self._features = Schema.load(artifact).user_features[:MAX_FEATURES]
        self._mean_D, self._axes_PD = mean_D, axes_PD
        log_events_N = artifact.tensors("item_features.safetensors")["log_events_N"].astype(np.float64)
        events_N = np.expm1(log_events_N)
        # Self-information of an item (Zhou et al. 2010): a rare item is new to most users.
        self._novelty_N = -np.log2((events_N + 1) / (events_N.sum() + len(events_N)))

    @classmethod
    def load(cls, artifact: Artifact) -> DriftSignals:
        """With mean and axes of the artifact's reference."""
        basis = artifact.tensors(BASIS_FILE)
        return cls(artifact, basis["mean_D"], basis["axes_PD"])

    def __call__(self, batch: AnsweredBatch, weight_B: npt.NDArray[np.float64] | None = None) -> Columns:
        """Every signal of every row; `weight_B`: 1 / the probability that the row was sampled."""
        known_B, given_B = ~batch.profiles.cold_B, batch.requests.chosen_by_caller()
        numbers: dict[str, Array] = {}
        self._inputs(numbers, batch, known_B)
        self._vectors(numbers, batch.profiles.user_vector_BD, known_B)
        numbers["request.n"] = np.where(given_B, np.nan, batch.requests.n_B)
        numbers["request.unknown_items"] = batch.unknown_B
        _scores(numbers, batch, known_B & ~given_B)
        item_BN, shown_BN = answer_items(batch.candidates, batch.ranked)
        self._answers(numbers, batch, item_BN, shown_BN, known_B, given_B)
        labels = {
            "request.operation": _one_of(np.where(given_B, "rank", "recommend").tolist()),
            "request.user": _one_of(np.where(known_B, "known", "new").tolist()),
            "request.filters": _one_of(_filters(batch.requests)),
            "answer.source": _sources(batch, shown_BN & ~given_B[:, None]),
            "answer.degraded": _one_of(batch.degraded),
        }
        return Columns(
            weight_B=np.ones(len(known_B)) if weight_B is None else weight_B,
            numbers={name: value.astype(np.float32) for name, value in numbers.items()},
            labels=labels,
        )

    def _inputs(self, numbers: dict[str, Array], batch: AnsweredBatch, known_B: Bools) -> None:
        profiles = batch.profiles
        length_B = (profiles.item_BH >= 0).sum(axis=1)
        weight_B = np.where(profiles.item_BH >= 0, profiles.weight_BH, 0).sum(axis=1) / np.maximum(length_B, 1)
        numbers["input.history_length"] = np.where(known_B, length_B, np.nan)
        numbers["input.mean_weight"] = np.where(known_B, weight_B, np.nan)
        numbers["input.hours_since_last_event"] = np.where(known_B, (batch.asked_B - batch.latest_B) / 3600, np.nan)
        for f, name in enumerate(self._features):
            numbers[f"input.user:{name}"] = np.where(known_B, profiles.features_BF[:, f], np.nan)

    def _vectors(self, numbers: dict[str, Array], vector_BD: Floats, known_B: Bools) -> None:
        from_mean_BD = vector_BD - self._mean_D
        numbers["embedding.distance"] = np.where(known_B, np.linalg.norm(from_mean_BD, axis=1), np.nan)
        for p, along_B in enumerate((from_mean_BD @ self._axes_PD.T).T, start=1):
            numbers[f"embedding.axis_{p}"] = np.where(known_B, along_B, np.nan)

    def _answers(
        self,
        numbers: dict[str, Array],
        batch: AnsweredBatch,
        item_BN: Ints,
        shown_BN: Bools,
        known_B: Bools,
        given_B: Bools,
    ) -> None:
        count_B = shown_BN.sum(axis=1)
        some_B = (count_B > 0) & ~given_B

        def mean(value_BN: Array, of_B: Bools) -> Array:
            return np.where(of_B, np.where(shown_BN, value_BN, 0).sum(axis=1) / np.maximum(count_B, 1), np.nan)

        moved_BN = np.abs(batch.ranked.score_rank_BN - np.arange(shown_BN.shape[1]))
        numbers["answer.moved"] = mean(moved_BN, some_B & known_B)
        numbers["answer.novelty"] = mean(self._novelty_N[np.maximum(item_BN, 0)], some_B)
        numbers["answer.filled"] = np.where(given_B, np.nan, count_B / np.maximum(batch.requests.n_B, 1))


def answer_items(candidates: CandidateBatch, ranked: RankedBatch) -> tuple[Ints, Bools]:
    """The items of the answers [B, N], padded with -1, and the mask of items that are not padding."""
    shown_BN = ranked.choice_BN >= 0
    if not candidates.item_ids_BK.shape[1]:
        return np.full(shown_BN.shape, PAD, np.int32), np.zeros_like(shown_BN)
    item_BN = take_columns(candidates.item_ids_BK, np.maximum(ranked.choice_BN, 0))
    return np.where(shown_BN, item_BN, np.int32(PAD)), shown_BN


def principal_axes(vector_BD: Floats, axes: int) -> tuple[Floats, Floats]:
    """Mean [D] and the first principal axes [P, D] of vectors; the largest component of an axis is positive."""
    mean_D = vector_BD.mean(axis=0)
    _, _, axes_DD = np.linalg.svd(vector_BD - mean_D, full_matrices=False)
    axes_PD = axes_DD[:axes]
    largest_P = np.take_along_axis(axes_PD, np.abs(axes_PD).argmax(axis=1)[:, None], axis=1)
    return mean_D.astype(np.float32), (axes_PD * np.where(largest_P < 0, -1, 1)).astype(np.float32)


def _scores(numbers: dict[str, Array], batch: AnsweredBatch, of_B: Bools) -> None:
    mask_BK = batch.candidates.mask_BK
    count_B = mask_BK.sum(axis=1)
    of_B = of_B & (count_B > 0)
    numbers["retrieval.candidates"] = np.where(of_B, count_B, np.nan)
    for name, value_BK in (("retrieval", batch.candidates.retrieval_scores_BK), ("score", batch.scores.scores_BK)):
        inside_BK = np.where(mask_BK, value_BK, 0).astype(np.float64)
        mean_B = inside_BK.sum(axis=1) / np.maximum(count_B, 1)
        best_B = np.where(mask_BK, value_BK, -np.inf).max(axis=1, initial=-np.inf)
        squares_B = (inside_BK**2).sum(axis=1) / np.maximum(count_B, 1)
        numbers[f"{name}.best"] = np.where(of_B, best_B, np.nan)
        numbers[f"{name}.mean"] = np.where(of_B, mean_B, np.nan)
        numbers[f"{name}.spread"] = np.where(of_B, np.sqrt(np.maximum(squares_B - mean_B**2, 0)), np.nan)


def _sources(batch: AnsweredBatch, shown_BN: Bools) -> Labels:
    """Share of each source in each answer."""
    names = batch.candidates.sources
    share_BL = np.zeros((len(shown_BN), len(names)), np.float32)
    if batch.candidates.source_BK.shape[1]:
        source_BN = take_columns(batch.candidates.source_BK, np.maximum(batch.ranked.choice_BN, 0))
        rows, columns = np.nonzero(shown_BN)
        np.add.at(share_BL, (rows, source_BN[rows, columns]), 1)
    return Labels(names, share_BL / np.maximum(share_BL.sum(axis=1, keepdims=True), 1))


def _filters(requests: RequestBatch) -> list[str]:
    names = ["+".join(_attributes(condition)) for condition in requests.filters]
    return [_NO_FILTER if row == PAD else names[row] for row in requests.filter_B.tolist()]


def _attributes(condition: Filter) -> list[str]:
    return sorted(name for name, _ in (*condition.one_of, *condition.between))


def _one_of(label_B: Sequence[str]) -> Labels:
    names = tuple(sorted(set(label_B)))
    column = {name: at for at, name in enumerate(names)}
    share_BL = np.zeros((len(label_B), len(names)), np.float32)
    share_BL[np.arange(len(label_B)), [column[label] for label in label_B]] = 1
    return Labels(names, share_BL)
