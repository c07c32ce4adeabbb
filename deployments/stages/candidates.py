"""The candidate stage: items from several retrieval sources, filtered and merged by quota.

Shapes: B requests, K candidates, S sources, R ranks in a source's list.
"""

from __future__ import annotations

import logging

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from deployments.artifact.reader import Artifact
from deployments.errors import VersionMismatch
from deployments.messages import PAD, Array, CandidateBatch, Floats, Ints, ProfileBatch, RequestBatch, same_model
from deployments.retrieval.kernels import Sources, propose
from deployments.retrieval.retriever import Retriever, candidate_counts, score_scaling
from deployments.stages.similar import rank_similar, similar_in_shard

log = logging.getLogger("rayfunnel.candidates")


class CandidateConfig(BaseModel):
    """How many candidates a request gets; the artifact defines quotas and sources."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    n_candidates: int = Field(300, ge=1, le=2000)
    """Candidates per request; of a smaller catalogue all its items. More cost time here and in scoring."""

    def of_catalogue(self, n_items: int) -> int:
        """Candidates per request from a catalogue of `n_items`; logs if these are fewer than configured."""
        if self.n_candidates > n_items:
            log.info("n_candidates is %d; the catalogue has %d items, so these are taken", self.n_candidates, n_items)
        return min(self.n_candidates, n_items)


class CandidateGenerator:
    """Proposes up to `n_candidates` items per request: not seen, not excluded, passing the filter.

    If the sources' lists have fewer items than the request's n, popular allowed items follow. Rows with `given_BG` get
    exactly these items, scored by every source.
    """

    def __init__(self, artifact: Artifact, config: CandidateConfig) -> None:
        self.model_version = artifact.model_version
        self._retrieval = Retriever(artifact)
        self._n_candidates = config.of_catalogue(self._retrieval.n_items)
        self.sources = self._retrieval.names
        no_proposals = np.zeros(0, np.int32), np.zeros(0, np.int8), self._no_scores(0)
        request, lists = self._retrieval.empty_request(), self._retrieval.empty_lists()
        propose(
            self._retrieval.workspace(), self._retrieval.sources, request, lists, *no_proposals
        )  # compiles the kernel

    def __call__(self, requests: RequestBatch, profiles: ProfileBatch) -> CandidateBatch:
        """Candidates, best merge key first.

        Raises:
            VersionMismatch: the messages or this stage were made with different models.
        """
        if (version := same_model(requests, profiles)) != self.model_version:
            raise VersionMismatch([version, self.model_version])
        retrieval, sources = self._retrieval, self._retrieval.sources
        width_B = candidate_counts(requests, self._n_candidates, retrieval.n_items)
        item_BK = np.full((len(requests), int(width_B.max(initial=0))), PAD, np.int32)
        source_BK = np.full(item_BK.shape, PAD, np.int8)
        scores_BKS = np.zeros((*item_BK.shape, len(self.sources)), np.float32)
        raw_KV = self._no_scores(item_BK.shape[1])
        scales = []
        lists, work = retrieval.empty_lists(), retrieval.workspace()
        for row, (request, width) in enumerate(zip(retrieval.requests(requests, profiles), width_B, strict=True)):
            propose(work, sources, request, lists, item_BK[row, :width], source_BK[row, :width], raw_KV)
            scores_BKS[row][:, sources.view_V] = raw_KV
            scales.append(score_scaling(sources, lists, retrieval.depth))
        scores_BKS[:, :, sources.popular] = retrieval.popularity_N[np.maximum(item_BK, 0)]
        scores_BKS[:, :, sources.vectors] = retrieval.vector_scores(profiles, item_BK)
        return scaled_candidates(version, self.sources, item_BK, source_BK, scores_BKS, scales)

    def _no_scores(self, width: int) -> Floats:
        return np.zeros((width, len(self._retrieval.sources.view_V)), np.float32)

    def lists(self, requests: RequestBatch, profiles: ProfileBatch) -> dict[str, Ints]:
        """Each source's own list [B, R], best first, -1 padded; for evaluation."""
        retrieval = self._retrieval
        found_SBR = np.full((len(self.sources), len(requests), retrieval.depth), PAD, np.int32)
        lists, work = retrieval.empty_lists(), retrieval.workspace()
        deep: Sources = retrieval.sources._replace(depth_S=np.full(len(self.sources), retrieval.depth, np.int32))
        no_proposals = np.zeros(0, np.int32), np.zeros(0, np.int8), self._no_scores(0)
        for row, request in enumerate(retrieval.requests(requests, profiles)):
            propose(work, deep, request, lists, *no_proposals)
            for source, count in enumerate(lists.count_S):
                found_SBR[source, row, :count] = lists.item_SR[source, :count]
        return dict(zip(self.sources, found_SBR, strict=True))

    def similar(self, requests: RequestBatch) -> CandidateBatch:
        """The n items most similar to the one item of each row's `given_BG`, by neighbour tables and vectors."""
        return rank_similar(requests, [similar_in_shard(self._retrieval, self.model_version, requests)])


def scaled_candidates(
    version: str,
    names: tuple[str, ...],
    item_BK: Ints,
    source_BK: Array,
    scores_BKS: Floats,
    scales: list[tuple[Floats, Floats]],
) -> CandidateBatch:
    """The message from raw scores, which are scaled in place by each row's offset and scale."""
    mask_BK = item_BK >= 0
    if scales:
        scores_BKS -= np.stack([offset_S for offset_S, _ in scales])[:, None]
        scores_BKS /= np.stack([scale_S for _, scale_S in scales])[:, None]
    scores_BKS[~mask_BK] = 0
    return CandidateBatch(
        model_version=version,
        item_ids_BK=item_BK,
        retrieval_scores_BK=np.maximum(scores_BKS, 0).mean(axis=2),
        source_BK=source_BK,
        source_scores_BKS=scores_BKS,
        mask_BK=mask_BK,
        sources=names,
    )
