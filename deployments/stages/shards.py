"""The candidate stage over a large catalogue in parts: each shard says what its sources have, `Gatherer` merges it.

A part is every of-th item (see `Part`), so the shards are alike in size and load, whatever the catalogue's order. All
shards together give what `CandidateGenerator` gives over the whole catalogue.

Shapes: B requests, U items in a part's answer, P parts, S sources, R places in a source's list, K candidates.
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
    PartBatch,
    ProfileBatch,
    RequestBatch,
    same_model,
)
from deployments.retrieval.kernels import RetrievalRequest, Workspace, workspace
from deployments.retrieval.retriever import EVERYTHING, Retriever, scaling, widths
from deployments.retrieval.shard_kernels import answer_part, gather
from deployments.retrieval.vector_index import Part
from deployments.stages.candidates import CandidateConfig, scaled
from deployments.stages.similar import rank_similar, similar_part


class ShardConfig(CandidateConfig):
    """One of `shards`, counted from 0."""

    shard: int = Field(ge=0)
    shards: int = Field(ge=1)


class CandidateShard:
    """The sources of one part of the catalogue; holds that part of tables, vectors and index in its own memory."""

    def __init__(self, artifact: Artifact, config: ShardConfig) -> None:
        self.model_version = artifact.model_version
        self._retrieval = Retriever(artifact, Part(config.shard, config.shards))
        config.check(len(self._retrieval.catalogue))
        self._n_candidates = config.n_candidates
        item_BU, raw_BUV, list_BSR = self._room(1, 0)
        self._answer(self._retrieval.no_request(), 0, item_BU[0], raw_BUV[0], list_BSR[0])  # compiled now

    def __call__(self, requests: RequestBatch, profiles: ProfileBatch) -> PartBatch:
        """What this part has for each request.

        Raises:
            VersionMismatch: the messages or this stage were made with different models.
        """
        if (version := same_model(requests, profiles)) != self.model_version:
            raise VersionMismatch([version, self.model_version])
        retrieval, sources = self._retrieval, self._retrieval.sources
        width_B = widths(requests, self._n_candidates, len(retrieval.catalogue))
        item_BU, raw_BUV, list_BSR = self._room(len(requests), int(width_B.max(initial=0)))
        used = 0
        for row, (request, width) in enumerate(zip(retrieval.requests(requests, profiles), width_B, strict=True)):
            used = max(used, self._answer(request, int(width), item_BU[row], raw_BUV[row], list_BSR[row]))
        item_BU = item_BU[:, :used]
        raw_BUS = np.zeros((*item_BU.shape, len(sources.quota_S)), np.float32)
        raw_BUS[:, :, sources.view_V] = raw_BUV[:, :used]
        raw_BUS[:, :, sources.popular] = retrieval.popularity_N[np.maximum(item_BU, 0)]
        raw_BUS[:, :, sources.vectors] = retrieval.near(profiles, item_BU)
        return PartBatch(version, retrieval.part.everywhere(item_BU), raw_BUS, list_BSR, retrieval.names)

    def _answer(self, request: RetrievalRequest, width: int, item_U: Ints, raw_UV: Floats, list_SR: Array) -> int:
        work, lists = self._retrieval.workspace(), self._retrieval.empty_lists()
        return int(answer_part(work, self._retrieval.sources, request, lists, width, item_U, raw_UV, list_SR))

    def _room(self, rows: int, width: int) -> tuple[Ints, Floats, Array]:
        """For the longest answers: all lists, the items given, and as many by popularity."""
        sources = self._retrieval.sources
        shape = rows, int(sources.depth_S.sum()) + 2 * width
        lists = self._retrieval.empty_lists().item_SR.shape
        return (
            np.full(shape, PAD, np.int32),
            np.zeros((*shape, len(sources.view_V)), np.float32),
            np.full((rows, *lists), PAD, np.int16),
        )

    def similar(self, requests: RequestBatch) -> PartBatch:
        """What this part has for the one item of each row's `given_BG`."""
        return similar_part(self._retrieval, self.model_version, requests)


class Gatherer:
    """Merges what the shards say, or those of them that answered, into the candidate stage's message."""

    def __init__(self, artifact: Artifact, config: CandidateConfig) -> None:
        self.model_version = artifact.model_version
        self._retrieval = Retriever(artifact)
        self._n_candidates = config.n_candidates
        self._scratch = threading.local()

    def __call__(
        self, requests: RequestBatch, profiles: ProfileBatch, parts: Sequence[PartBatch], n_parts: int
    ) -> CandidateBatch:
        """As CandidateGenerator, over `parts`, at least one of `n_parts`. An item of a part that is missing may still
        be there because it is popular.

        Raises:
            VersionMismatch: the messages or this stage were made with different models.
        """
        if (version := same_model(requests, profiles, *parts)) != self.model_version:
            raise VersionMismatch([version, self.model_version])
        retrieval, sources = self._retrieval, self._retrieval.sources
        width_B = widths(requests, self._n_candidates, retrieval.n_items)
        item_BK = np.full((len(requests), int(width_B.max(initial=0))), PAD, np.int32)
        source_BK = np.full(item_BK.shape, PAD, np.int8)
        scores_BKS = np.zeros((*item_BK.shape, len(retrieval.names)), np.float32)
        item_BU = np.concatenate([part.item_BU for part in parts], axis=1)
        raw_BUS = np.concatenate([part.raw_BUS for part in parts], axis=1)
        first_P = np.cumsum([0, *(part.item_BU.shape[1] for part in parts[:-1])], dtype=np.int32)
        list_BPSR = np.stack([part.list_BSR.astype(np.int32) for part in parts], axis=1)
        list_BPSR = np.where(list_BPSR >= 0, list_BPSR + first_P[:, None, None], PAD).astype(np.int32)
        masks = [retrieval.catalogue.mask(condition) for condition in requests.filters]
        passes = [masks[f] if f >= 0 else EVERYTHING for f in requests.filter_B]
        unwanted_BX = np.concatenate([profiles.item_BH, requests.excluded_BX], axis=1)
        lists, work, scales, blank = retrieval.empty_lists(), self._workspace(), [], retrieval.no_request()
        for row, width in enumerate(width_B):
            request = blank._replace(
                unwanted_X=unwanted_BX[row][unwanted_BX[row] >= 0],
                passes_N=passes[row],
                given_G=requests.given_BG[row][requests.given_BG[row] >= 0],
                wanted=min(int(requests.n_B[row]), retrieval.n_items),
            )
            said = item_BU[row], raw_BUS[row], list_BPSR[row]
            proposals = item_BK[row, :width], source_BK[row, :width], scores_BKS[row, :width]
            gather(work, sources, request, *said, lists, *proposals)
            scales.append(scaling(sources, lists, retrieval.depth))
        scores_BKS[:, :, sources.popular] = retrieval.popularity_N[np.maximum(item_BK, 0)]
        batch = scaled(version, retrieval.names, item_BK, source_BK, scores_BKS, scales)
        return replace(batch, parts=(len(parts), n_parts))

    def similar(self, requests: RequestBatch, parts: Sequence[PartBatch], n_parts: int) -> CandidateBatch:
        """As CandidateGenerator.similar, over `parts`."""
        return replace(rank_similar(requests, parts), parts=(len(parts), n_parts))

    def _workspace(self) -> Workspace:
        if not hasattr(self._scratch, "work"):
            self._scratch.work = workspace(len(self._retrieval.names), 1, self._retrieval.n_items)
        work: Workspace = self._scratch.work
        return work
