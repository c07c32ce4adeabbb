"""The candidate stage: several retrieval sources, filtered, merged by quota, with where each item came from.

Shapes: b requests (a chunk of B), N items, K candidates, S sources, R places in a source's list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from deployments.catalogue import Catalogue
from deployments.errors import ConfigError, VersionMismatch
from deployments.messages import (
    PAD,
    Array,
    Bools,
    CandidateBatch,
    Floats,
    Ints,
    ProfileBatch,
    RequestBatch,
    same_model,
)
from deployments.models.artifact import Artifact
from deployments.models.sources import Neighbours, SourceSpec, Vectors, popularity

DEPTH = 150
"""Length R of each source's list."""

_HEAD = 10
"""A neighbour source's scores are scaled by the mean of its best few."""

_CELLS = 2_000_000
"""Most requests times items worked on at once: bounds memory on large catalogues."""

_BACKFILL = np.float32(1e6)
"""Merge key from which items follow that no source proposed."""


class CandidateConfig(BaseModel):
    """How many candidates a request gets; quotas and sources are the artifact's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_candidates: int = Field(300, ge=1, le=2000)


@dataclass(slots=True)
class _List:
    """What one source says to b requests: its list, and its scaled score of any item."""

    ids_BR: Ints
    score_BN: Floats | None
    offset_B: Floats
    scale_B: Floats


class CandidateGenerator:
    """Proposes up to `n_candidates` items per request: not seen, not excluded, passing the filter.

    If a request's own n can't be met from the sources' lists, the rest comes from all allowed items by popularity.
    Rows with `given_BG` get exactly these items, scored by every source.
    """

    def __init__(self, artifact: Artifact, config: CandidateConfig) -> None:
        self.model_version = artifact.model_version
        self._catalogue = Catalogue.load(artifact)
        if config.n_candidates > len(self._catalogue):
            raise ConfigError(
                f"n_candidates is {config.n_candidates}, but the catalogue has {len(self._catalogue)} items; lower it"
            )
        self._n_candidates = config.n_candidates
        self._specs = [SourceSpec.model_validate(spec) for spec in artifact.manifest.settings["sources"]]
        self.sources = tuple(spec.name for spec in self._specs)
        tables = artifact.tensors("neighbours.safetensors")
        self._tables = {
            name: Neighbours(tables[f"{name}_ids_NK"], tables[f"{name}_weights_NK"])
            for name in dict.fromkeys(spec.table for spec in self._specs if spec.kind == "neighbours")
        }
        self._vectors = Vectors(artifact)
        self._norm_N = np.maximum(np.linalg.norm(self._vectors.vectors_ND[:, :-1], axis=1), 1e-9)
        self._popularity_N = popularity(artifact)
        self._popular_source = next(i for i, spec in enumerate(self._specs) if spec.kind == "popularity")

    def __call__(self, requests: RequestBatch, profiles: ProfileBatch) -> CandidateBatch:
        """Candidates, best merge key first.

        Raises:
            VersionMismatch: the messages or this stage were made with different models.
        """
        if (version := same_model(requests, profiles)) != self.model_version:
            raise VersionMismatch([version, self.model_version])
        step = max(1, _CELLS // len(self._catalogue))
        chunks = [slice(start, start + step) for start in range(0, max(1, len(requests)), step)]
        return CandidateBatch.concat([self._chunk(requests.take(rows), profiles.take(rows)) for rows in chunks])

    def _chunk(self, requests: RequestBatch, profiles: ProfileBatch) -> CandidateBatch:
        given_B = requests.chosen_by_caller()
        blocked_BN = blocked(requests, profiles, self._catalogue)
        lists = [self._list(spec, profiles, blocked_BN) for spec in self._specs]
        key_BN, source_BN = self._merge(lists, blocked_BN.shape)
        if given_B.any():
            key_BN[given_B] = np.inf
            for row in np.flatnonzero(given_B):
                items = requests.given_BG[row][requests.given_BG[row] >= 0]
                key_BN[row, items] = np.arange(len(items))
        self._backfill(key_BN, source_BN, blocked_BN, requests.n_B, given_B)
        item_BK = self._choose(key_BN, requests.n_B, given_B)
        return self._columns(requests.model_version, item_BK, source_BN, lists, profiles)

    def lists(self, requests: RequestBatch, profiles: ProfileBatch) -> dict[str, Ints]:
        """Each source's own list [B, R], best first, -1 padded; for evaluation."""
        blocked_BN = blocked(requests, profiles, self._catalogue)
        return {spec.name: self._list(spec, profiles, blocked_BN).ids_BR for spec in self._specs}

    def _list(self, spec: SourceSpec, profiles: ProfileBatch, blocked_BN: Bools) -> _List:
        """The source's R best allowed items per request, and how to scale its scores."""
        rows = len(profiles)
        if spec.kind == "vectors":
            ids_BR, score_BR = self._vectors.search(profiles.user_vector_BD, blocked_BN, self._depth)
            ids_BR = np.where(profiles.cold_B[:, None], PAD, ids_BR).astype(np.int32)
            count_B = (ids_BR >= 0).sum(axis=1)
            worst_B = np.where(count_B > 0, _pick(score_BR, np.maximum(count_B - 1, 0)), 0)
            best_B = np.where(count_B > 0, score_BR[:, 0], 0)
            return _List(ids_BR, None, worst_B, np.maximum(best_B - worst_B, 1e-6).astype(np.float32))
        if spec.kind == "popularity":
            score_BN = np.broadcast_to(self._popularity_N, blocked_BN.shape)
            offset_B, scale_B = np.zeros(rows, np.float32), np.ones(rows, np.float32)
        else:
            score_BN = self._tables[spec.table].scores(profiles.item_BH, profiles.weight_BH, spec.decay)
            offset_B, scale_B = np.zeros(rows, np.float32), np.zeros(rows, np.float32)
        ids_BR, score_BR = best(np.where(blocked_BN, -np.inf, score_BN), self._depth)
        lowest = -np.inf if spec.kind == "popularity" else 0
        ids_BR = np.where(score_BR > lowest, ids_BR, np.int32(PAD))
        if spec.kind == "neighbours":
            scale_B = np.maximum(np.maximum(score_BR[:, :_HEAD], 0).mean(axis=1), 1e-6)
        return _List(ids_BR, score_BN, offset_B, scale_B)

    @property
    def _depth(self) -> int:
        return min(DEPTH, len(self._catalogue))

    def _merge(self, lists: Sequence[_List], shape: tuple[int, ...]) -> tuple[Floats, Ints]:
        """Merge key [b, N] (lower is better, inf: not proposed) and the source it is from [b, N]."""
        key_BN = np.full(shape, np.inf, np.float32)
        source_BN = np.full(shape, self._popular_source, np.int32)
        for s, (spec, found) in enumerate(zip(self._specs, lists, strict=True)):
            row, place = np.nonzero(found.ids_BR >= 0)
            item = found.ids_BR[row, place]
            within = place < spec.quota
            row, item = row[within], item[within]
            key = (place[within] * (100.0 / spec.quota) + 0.001 * s).astype(np.float32)
            better = key < key_BN[row, item]
            key_BN[row[better], item[better]] = key[better]
            source_BN[row[better], item[better]] = s
        return key_BN, source_BN

    def _backfill(
        self,
        key_BN: Floats,
        source_BN: Ints,
        blocked_BN: Bools,
        n_B: Ints,
        given_B: Bools,
    ) -> None:
        """Adds allowed items by popularity to the rows that fall short of their n."""
        short_B = (np.isfinite(key_BN).sum(axis=1) < np.minimum(n_B, key_BN.shape[1])) & ~given_B
        for row in np.flatnonzero(short_B):
            rest = np.flatnonzero(~blocked_BN[row] & np.isinf(key_BN[row]))
            rest = rest[np.lexsort((rest, -self._popularity_N[rest]))][: max(self._n_candidates, n_B[row])]
            key_BN[row, rest] = _BACKFILL + np.arange(len(rest), dtype=np.float32)
            source_BN[row, rest] = self._popular_source

    def _choose(self, key_BN: Floats, n_B: Ints, given_B: Bools) -> Ints:
        """The items [b, K] with the lowest keys, ties by item; -1 padded."""
        width_B = np.where(given_B, key_BN.shape[1], np.maximum(self._n_candidates, n_B))
        width = int(width_B.max(initial=0, where=~given_B))
        width = max(width, int(np.isfinite(key_BN[given_B]).sum(axis=1).max(initial=0)))
        item_BK, key_BK = best(-key_BN, min(width, key_BN.shape[1]))
        return np.where(np.isfinite(key_BK) & (np.arange(item_BK.shape[1]) < width_B[:, None]), item_BK, np.int32(PAD))

    def _columns(
        self,
        version: str,
        item_BK: Ints,
        source_BN: Ints,
        lists: Sequence[_List],
        profiles: ProfileBatch,
    ) -> CandidateBatch:
        mask_BK, safe_BK = item_BK >= 0, np.maximum(item_BK, 0)
        scores = []
        for found in lists:
            if found.score_BN is None:
                raw_BK = self._vectors.at(profiles.user_vector_BD, item_BK)
                raw_BK = np.where(profiles.cold_B[:, None], 0, raw_BK)
            else:
                raw_BK = np.take_along_axis(found.score_BN, safe_BK, axis=1)
            scores.append((raw_BK - found.offset_B[:, None]) / found.scale_B[:, None])
        scores_BKS = np.where(mask_BK[..., None], np.stack(scores, axis=2), 0).astype(np.float32)
        return CandidateBatch(
            model_version=version,
            item_ids_BK=item_BK,
            retrieval_scores_BK=np.maximum(scores_BKS, 0).mean(axis=2),
            source_BK=np.where(mask_BK, np.take_along_axis(source_BN, safe_BK, axis=1), PAD).astype(np.int8),
            source_scores_BKS=scores_BKS,
            mask_BK=mask_BK,
            sources=self.sources,
        )

    def similar(self, requests: RequestBatch) -> CandidateBatch:
        """The n items that go with the one item of each row's `given_BG`: neighbour tables and vectors together."""
        seed_B1 = requests.given_BG[:, :1]
        one_B1 = np.ones(seed_B1.shape, np.float32)
        vectors_ND = self._vectors.vectors_ND[:, :-1]  # without the popularity bias
        cosine_BN = (vectors_ND[seed_B1[:, 0]] @ vectors_ND.T) / self._norm_N / self._norm_N[seed_B1]
        parts = [table.scores(seed_B1, one_B1, 1.0) for table in self._tables.values()] + [np.maximum(cosine_BN, 0)]
        for part_BN in parts:
            np.put_along_axis(part_BN, seed_B1, 0, axis=1)
            part_BN /= np.maximum(part_BN.max(axis=1, keepdims=True), 1e-9)
        score_SBN = np.stack(parts)
        total_BN = score_SBN.mean(axis=0)
        np.put_along_axis(total_BN, seed_B1, -np.inf, axis=1)
        item_BK, score_BK = best(total_BN, min(int(requests.n_B.max(initial=1)), total_BN.shape[1]))
        mask_BK = np.isfinite(score_BK) & (np.arange(item_BK.shape[1]) < requests.n_B[:, None])
        by_source_BKS = np.take_along_axis(score_SBN, item_BK[None], axis=2).transpose(1, 2, 0)
        return CandidateBatch(
            model_version=self.model_version,
            item_ids_BK=np.where(mask_BK, item_BK, PAD),
            retrieval_scores_BK=np.where(mask_BK, score_BK, 0).astype(np.float32),
            source_BK=np.where(mask_BK, by_source_BKS.argmax(axis=2), PAD).astype(np.int8),
            source_scores_BKS=by_source_BKS.astype(np.float32),
            mask_BK=mask_BK,
            sources=(*self._tables, "two_tower"),
        )


def blocked(requests: RequestBatch, profiles: ProfileBatch, catalogue: Catalogue) -> Bools:
    """True for items a request must not get: seen, excluded, or outside its filter. bool [b, N]."""
    n_items = len(catalogue)
    blocked_BN = np.zeros((len(requests), n_items + 1), np.bool_)  # the last column takes the padding
    np.put_along_axis(blocked_BN, np.where(profiles.item_BH >= 0, profiles.item_BH, n_items), True, axis=1)
    np.put_along_axis(blocked_BN, np.where(requests.excluded_BX >= 0, requests.excluded_BX, n_items), True, axis=1)
    blocked_BN = blocked_BN[:, :n_items]
    for index, condition in enumerate(requests.filters):
        blocked_BN[requests.filter_B == index] |= ~catalogue.mask(condition)
    return blocked_BN


def best(score_BN: Floats, depth: int) -> tuple[Ints, Floats]:
    """The `depth` highest scores per row, best first, ties by position: positions and scores [b, depth]."""
    if depth < score_BN.shape[1]:
        part_BR = np.argpartition(-score_BN, depth, axis=1)[:, :depth]
    else:
        part_BR = np.broadcast_to(np.arange(score_BN.shape[1]), score_BN.shape)
    value_BR = np.take_along_axis(score_BN, part_BR, axis=1)
    order_BR = np.lexsort((part_BR, -value_BR), axis=1)
    return (
        np.take_along_axis(part_BR, order_BR, axis=1).astype(np.int32),
        np.take_along_axis(value_BR, order_BR, axis=1),
    )


def _pick(array_BR: Floats, column_B: Array) -> Floats:
    return np.take_along_axis(array_BR, column_B[:, None], axis=1)[:, 0]
