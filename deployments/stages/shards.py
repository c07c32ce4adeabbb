"""The candidate stage over a large catalogue in shards: each `CandidateShard` answers, and `Gatherer` merges.

A shard is every n-th item (see `Shard`), so shards have equal size and load for any order of the catalogue. All shards
together give the candidates that `CandidateGenerator` gives over the whole catalogue.

Shapes: B requests, U items in a shard's answer, P shards, S sources, R ranks in a source's list, K candidates.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field

from deployments.artifact.reader import Artifact
from deployments.errors import VersionMismatch
from deployments.messages import (
    PAD,
    Array,
    CandidateBatch,
    Floats,
    Ints,
    ProfileBatch,
    RequestBatch,
    ShardBatch,
    same_model,
)
from deployments.retrieval.kernels import RetrievalRequest, Workspace, workspace
from deployments.retrieval.partition import Shard
from deployments.retrieval.retriever import NO_FILTER, Retriever, candidate_counts, score_scaling
from deployments.retrieval.shard_kernels import collect_shard, merge_shards
from deployments.stages.candidates import CandidateConfig, scaled_candidates
from deployments.stages.similar import rank_similar, similar_in_shard


class ShardConfig(CandidateConfig):
    """One of `shards`, counted from 0."""

    shard: int = Field(ge=0)
    """Which shard this is."""
    shards: int = Field(ge=1)
    """Number of all shards."""


class CandidateShard:
    """The sources of one shard; its memory holds only that shard's tables, vectors and index entries."""

    def __init__(self, artifact: Artifact, config: ShardConfig) -> None:
        self.model_version = artifact.model_version
        self._retrieval = Retriever(artifact, Shard(config.shard, config.shards))
        self._n_candidates = config.of_catalogue(len(self._retrieval.catalogue))
        item_BU, raw_BUV, list_BSR = self._allocate(1, 0)
        self._collect(self._retrieval.empty_request(), 0, item_BU[0], raw_BUV[0], list_BSR[0])  # compiles the kernel

    def __call__(self, requests: RequestBatch, profiles: ProfileBatch) -> ShardBatch:
        """This shard's answer to each request.

        Raises:
            VersionMismatch: the messages or this stage were made with different models.
        """
        if (version := same_model(requests, profiles)) != self.model_version:
            raise VersionMismatch([version, self.model_version])
        retrieval, sources = self._retrieval, self._retrieval.sources
        width_B = candidate_counts(requests, self._n_candidates, len(retrieval.catalogue))
        item_BU, raw_BUV, list_BSR = self._allocate(len(requests), int(width_B.max(initial=0)))
        used = 0
        for row, (request, width) in enumerate(zip(retrieval.requests(requests, profiles), width_B, strict=True)):
            used = max(used, self._collect(request, int(width), item_BU[row], raw_BUV[row], list_BSR[row]))
        item_BU = item_BU[:, :used]
        raw_BUS = np.zeros((*item_BU.shape, len(sources.quota_S)), np.float32)
        raw_BUS[:, :, sources.view_V] = raw_BUV[:, :used]
        raw_BUS[:, :, sources.popular] = retrieval.popularity_N[np.maximum(item_BU, 0)]
        raw_BUS[:, :, sources.vectors] = retrieval.vector_scores(profiles, item_BU)
        return ShardBatch(version, retrieval.shard.to_catalogue(item_BU), raw_BUS, list_BSR, retrieval.names)

    def _collect(self, request: RetrievalRequest, width: int, item_U: Ints, raw_UV: Floats, list_SR: Array) -> int:
        work, lists = self._retrieval.workspace(), self._retrieval.empty_lists()
        return int(collect_shard(work, self._retrieval.sources, request, lists, width, item_U, raw_UV, list_SR))

    def _allocate(self, rows: int, width: int) -> tuple[Ints, Floats, Array]:
        """Arrays for the longest answers: all lists, the given items, and as many popular ones."""
        sources = self._retrieval.sources
        shape = rows, int(sources.depth_S.sum()) + 2 * width
        lists = self._retrieval.empty_lists().item_SR.shape
        return (
            np.full(shape, PAD, np.int32),
            np.zeros((*shape, len(sources.view_V)), np.float32),
            np.full((rows, *lists), PAD, np.int16),
        )

    def similar(self, requests: RequestBatch) -> ShardBatch:
        """This shard's items similar to the one item of each row's `given_BG`."""
        return similar_in_shard(self._retrieval, self.model_version, requests)


class Gatherer:
    """Merges the answers of the shards that answered into the candidate stage's message."""

    def __init__(self, artifact: Artifact, config: CandidateConfig) -> None:
        self.model_version = artifact.model_version
        self._retrieval = Retriever(artifact)
        self._n_candidates = config.n_candidates
        self._scratch = threading.local()

    def __call__(
        self, requests: RequestBatch, profiles: ProfileBatch, answers: Sequence[ShardBatch], n_shards: int
    ) -> CandidateBatch:
        """As CandidateGenerator, over the `answers` of at least one of `n_shards`. Popular items of a missing shard may
        still be among the candidates.

        Raises:
            VersionMismatch: the messages or this stage were made with different models.
        """
        if (version := same_model(requests, profiles, *answers)) != self.model_version:
            raise VersionMismatch([version, self.model_version])
        retrieval, sources = self._retrieval, self._retrieval.sources
        width_B = candidate_counts(requests, self._n_candidates, retrieval.n_items)
        item_BK = np.full((len(requests), int(width_B.max(initial=0))), PAD, np.int32)
        source_BK = np.full(item_BK.shape, PAD, np.int8)
        scores_BKS = np.zeros((*item_BK.shape, len(retrieval.names)), np.float32)
        item_BU = np.concatenate([answer.item_BU for answer in answers], axis=1)
        raw_BUS = np.concatenate([answer.raw_BUS for answer in answers], axis=1)
        first_P = np.cumsum([0, *(answer.item_BU.shape[1] for answer in answers[:-1])], dtype=np.int32)
        list_BPSR = np.stack([answer.list_BSR.astype(np.int32) for answer in answers], axis=1)
        list_BPSR = np.where(list_BPSR >= 0, list_BPSR + first_P[:, None, None], PAD).astype(np.int32)
        masks = [retrieval.catalogue.mask(condition) for condition in requests.filters]
        passes = [masks[f] if f >= 0 else NO_FILTER for f in requests.filter_B]
        unwanted_BX = np.concatenate([profiles.seen_item_BH, requests.excluded_BX], axis=1)
        lists, work, scales, empty = retrieval.empty_lists(), self._workspace(), [], retrieval.empty_request()
        for row, width in enumerate(width_B):
            request = empty._replace(
                unwanted_X=unwanted_BX[row][unwanted_BX[row] >= 0],
                passes_N=passes[row],
                given_G=requests.given_BG[row][requests.given_BG[row] >= 0],
                n_requested=min(int(requests.n_B[row]), retrieval.n_items),
            )
            columns = item_BU[row], raw_BUS[row], list_BPSR[row]
            proposals = item_BK[row, :width], source_BK[row, :width], scores_BKS[row, :width]
            merge_shards(work, sources, request, *columns, lists, *proposals)
            scales.append(score_scaling(sources, lists, retrieval.depth))
        scores_BKS[:, :, sources.popular] = retrieval.popularity_N[np.maximum(item_BK, 0)]
        batch = scaled_candidates(version, retrieval.names, item_BK, source_BK, scores_BKS, scales)
        return replace(batch, shards=(len(answers), n_shards))

    def similar(self, requests: RequestBatch, answers: Sequence[ShardBatch], n_shards: int) -> CandidateBatch:
        """As CandidateGenerator.similar, over the shards' `answers`."""
        return replace(rank_similar(requests, answers), shards=(len(answers), n_shards))

    def _workspace(self) -> Workspace:
        if not hasattr(self._scratch, "work"):
            self._scratch.work = workspace(len(self._retrieval.names), 1, self._retrieval.n_items)
        work: Workspace = self._scratch.work
        return work
