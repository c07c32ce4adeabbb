"""The candidate stage: several retrieval sources, filtered, merged by quota, with where each item came from.

Shapes: L events read, N items, K candidates, S sources, V views (neighbour sources), R places in a source's list.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from deployments.catalogue import Catalogue
from deployments.errors import ConfigError, VersionMismatch
from deployments.messages import PAD, Bools, CandidateBatch, Floats, Ints, ProfileBatch, RequestBatch, same_model
from deployments.models import history
from deployments.models.artifact import Artifact
from deployments.models.proposals import HEAD, Lists, Request, Sources, Workspace, propose, workspace
from deployments.models.sources import READ, SourceSpec, Vectors, popularity

DEPTH = 150
"""Length R of each source's list."""

_LEAST = 1e-4
"""Evidence of an event that is too old to count."""

_LEAST_SPAN = 1e-3
"""Least difference between the first and the last of the vectors' list to scale by: not the rounding of one item."""

_EVERYTHING: Bools = np.zeros(0, np.bool_)
"""As a filter: no item is left out."""
_EVERYTHING.setflags(write=False)  # as the catalogue's masks are: one type, compiled once


class CandidateConfig(BaseModel):
    """How many candidates a request gets; quotas and sources are the artifact's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_candidates: int = Field(300, ge=1, le=2000)


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
        specs = [SourceSpec.model_validate(spec) for spec in artifact.manifest.settings["sources"]]
        self.sources = tuple(spec.name for spec in specs)
        views = [spec for spec in specs if spec.kind == "neighbours"]
        self._tables = list(dict.fromkeys(view.table for view in views))
        views.sort(key=lambda view: (self._tables.index(view.table), -view.decay))
        self._decay_V = np.array([view.decay for view in views], np.float32)
        self._vectors = Vectors(artifact)
        self._popularity_N = popularity(artifact)
        self._depth = min(DEPTH, len(self._catalogue))
        tensors = artifact.tensors("neighbours.safetensors")
        kinds = [spec.kind for spec in specs]
        self._sources = Sources(
            quota_S=np.array([spec.quota for spec in specs], np.int32),
            depth_S=np.array([self._depth if s.kind == "vectors" else max(s.quota, HEAD) for s in specs], np.int32),
            view_V=np.array([specs.index(view) for view in views], np.int32),
            first_T=np.searchsorted(
                [self._tables.index(view.table) for view in views], range(len(self._tables) + 1)
            ).astype(np.int32),
            ids_TNW=tuple(tensors[f"{name}_ids_NK"] for name in self._tables),
            weights_TNW=tuple(tensors[f"{name}_weights_NK"] for name in self._tables),
            order_N=np.argsort(-self._popularity_N, kind="stable").astype(np.int32),
            popular=kinds.index("popularity"),
            vectors=kinds.index("vectors"),
        )
        self._scratch = threading.local()
        self._compile()

    def __call__(self, requests: RequestBatch, profiles: ProfileBatch) -> CandidateBatch:
        """Candidates, best merge key first.

        Raises:
            VersionMismatch: the messages or this stage were made with different models.
        """
        if (version := same_model(requests, profiles)) != self.model_version:
            raise VersionMismatch([version, self.model_version])
        rows, n_items = len(requests), len(self._catalogue)
        given_B = (requests.given_BG >= 0).sum(axis=1)
        width_B = np.where(given_B > 0, given_B, np.minimum(np.maximum(self._n_candidates, requests.n_B), n_items))
        item_BK = np.full((rows, int(width_B.max(initial=0))), PAD, np.int32)
        source_BK = np.full(item_BK.shape, PAD, np.int8)
        scores_BKS = np.zeros((*item_BK.shape, len(self.sources)), np.float32)
        raw_KV = np.zeros((item_BK.shape[1], len(self._sources.view_V)), np.float32)
        offset_BS = np.zeros((rows, 1, len(self.sources)), np.float32)
        scale_BS = np.ones_like(offset_BS)
        lists, work = self._empty_lists(), self._workspace()
        for row, (request, width) in enumerate(zip(self._requests(requests, profiles), width_B, strict=True)):
            propose(work, self._sources, request, lists, item_BK[row, :width], source_BK[row, :width], raw_KV)
            scores_BKS[row][:, self._sources.view_V] = raw_KV
            self._scale(lists, offset_BS[row, 0], scale_BS[row, 0])
        mask_BK = item_BK >= 0
        scores_BKS[:, :, self._sources.popular] = self._popularity_N[np.maximum(item_BK, 0)]
        near_BK = self._vectors.at(profiles.user_vector_BD, item_BK)
        scores_BKS[:, :, self._sources.vectors] = np.where(profiles.cold_B[:, None], 0, near_BK)
        scores_BKS -= offset_BS
        scores_BKS /= scale_BS
        scores_BKS[~mask_BK] = 0
        return CandidateBatch(
            model_version=version,
            item_ids_BK=item_BK,
            retrieval_scores_BK=np.maximum(scores_BKS, 0).mean(axis=2),
            source_BK=source_BK,
            source_scores_BKS=scores_BKS,
            mask_BK=mask_BK,
            sources=self.sources,
        )

    def lists(self, requests: RequestBatch, profiles: ProfileBatch) -> dict[str, Ints]:
        """Each source's own list [B, R], best first, -1 padded; for evaluation."""
        found_SBR = np.full((len(self.sources), len(requests), self._depth), PAD, np.int32)
        lists, work = self._empty_lists(), self._workspace()
        sources = self._sources._replace(depth_S=np.full(len(self.sources), self._depth, np.int32))
        none = np.zeros(0, np.int32), np.zeros(0, np.int8), np.zeros((0, len(self._sources.view_V)), np.float32)
        for row, request in enumerate(self._requests(requests, profiles)):
            propose(work, sources, request, lists, *none)
            for source, count in enumerate(lists.count_S):
                found_SBR[source, row, :count] = lists.item_SR[source, :count]
        return dict(zip(self.sources, found_SBR, strict=True))

    def _requests(self, requests: RequestBatch, profiles: ProfileBatch) -> Iterator[Request]:
        """The rows as the inner loop takes them."""
        event_BL, evidence_BLV = history.evidence(profiles.item_BH, profiles.weight_BH, self._decay_V, READ)
        evidence_BLV[evidence_BLV <= _LEAST] = 0
        masks = [self._catalogue.mask(condition) for condition in requests.filters]
        passes = [masks[f] if f >= 0 else _EVERYTHING for f in requests.filter_B]
        unwanted_BX = np.concatenate([profiles.item_BH, requests.excluded_BX], axis=1)
        unwanted = [items[items >= 0] for items in unwanted_BX]
        near_BR = np.full((len(requests), 0), PAD, np.int32)
        near_score_BR = near_BN = np.zeros((len(requests), 0), np.float32)
        if self._vectors.exact:
            near_BN = self._vectors.all(profiles.user_vector_BD)
        else:
            near_BR, near_score_BR = self._vectors.search(profiles.user_vector_BD, unwanted, passes, self._depth)
            near_BR[profiles.cold_B] = PAD
        wanted_B = np.minimum(requests.n_B, len(self._catalogue)).tolist()
        for row, wanted in enumerate(wanted_B):
            yield Request(
                unwanted_X=unwanted[row],
                passes_N=passes[row],
                event_L=event_BL[row],
                evidence_LV=evidence_BLV[row],
                near_R=near_BR[row],
                near_score_R=near_score_BR[row],
                near_N=near_BN[row][:0] if profiles.cold_B[row] else near_BN[row],
                given_G=requests.given_BG[row][requests.given_BG[row] >= 0],
                wanted=wanted,
            )

    def _scale(self, lists: Lists, offset_S: Floats, scale_S: Floats) -> None:
        """How each source's scores of this request are brought to about 0..1: neighbours by the mean of their best few,
        vectors from the last of the list to the first, popularity as it is."""
        for source in self._sources.view_V:
            head = lists.score_SR[source, : min(int(lists.count_S[source]), HEAD)]
            scale_S[source] = max(head.sum() / min(HEAD, self._depth), 1e-6)
        source = self._sources.vectors
        if count := int(lists.count_S[source]):
            offset_S[source] = lists.score_SR[source, count - 1]
        scale_S[source] = max(lists.score_SR[source, 0] - offset_S[source] if count else 0.0, _LEAST_SPAN)

    def _empty_lists(self) -> Lists:
        shape = (len(self.sources), max(self._depth, int(self._sources.depth_S.max())))
        return Lists(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape[0], np.int32))

    def _workspace(self) -> Workspace:
        if not hasattr(self._scratch, "work"):
            self._scratch.work = workspace(len(self._sources.view_V), len(self._tables), len(self._catalogue))
        work: Workspace = self._scratch.work
        return work

    def _compile(self) -> None:
        """Has Numba compile the inner loop, or load it from its cache, before the first request."""
        none, scores = np.zeros(0, np.int32), np.zeros(0, np.float32)
        views = len(self._sources.view_V)
        evidence_LV = np.zeros((0, views), np.float32)
        request = Request(none, _EVERYTHING, none, evidence_LV, none, scores, scores, none, wanted=0)
        nothing = none, np.zeros(0, np.int8), np.zeros((0, views), np.float32)
        propose(self._workspace(), self._sources, request, self._empty_lists(), *nothing)

    def similar(self, requests: RequestBatch) -> CandidateBatch:
        """The n items that go with the one item of each row's `given_BG`: neighbour tables and vectors together."""
        seed_B = requests.given_BG[:, 0]
        parts_SBN = np.zeros((len(self._tables) + 1, len(seed_B), len(self._catalogue)), np.float32)
        for part_BN, ids_NW, weights_NW in zip(
            parts_SBN, self._sources.ids_TNW, self._sources.weights_TNW, strict=False
        ):
            np.put_along_axis(part_BN, ids_NW[seed_B], weights_NW[seed_B], axis=1)
        parts_SBN[-1] = np.maximum(self._vectors.cosines(seed_B), 0)
        parts_SBN[:, np.arange(len(seed_B)), seed_B] = 0
        parts_SBN /= np.maximum(parts_SBN.max(axis=2, keepdims=True), 1e-9)
        total_BN = parts_SBN.mean(axis=0)
        total_BN[np.arange(len(seed_B)), seed_B] = -np.inf
        item_BK, score_BK = best(total_BN, min(int(requests.n_B.max(initial=1)), total_BN.shape[1]))
        mask_BK = np.isfinite(score_BK) & (np.arange(item_BK.shape[1]) < requests.n_B[:, None])
        by_source_BKS = np.take_along_axis(parts_SBN, item_BK[None], axis=2).transpose(1, 2, 0)
        return CandidateBatch(
            model_version=self.model_version,
            item_ids_BK=np.where(mask_BK, item_BK, PAD),
            retrieval_scores_BK=np.where(mask_BK, score_BK, 0).astype(np.float32),
            source_BK=np.where(mask_BK, by_source_BKS.argmax(axis=2), PAD).astype(np.int8),
            source_scores_BKS=by_source_BKS.astype(np.float32),
            mask_BK=mask_BK,
            sources=(*self._tables, "two_tower"),
        )


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
