"""Fallback results for a stage that is late or fails: cheap, local, and without a model.

profile → cold start; candidates → popular items; scoring → retrieval scores; ranking → score order.
pipeline/stage_fallbacks.py calls them.
"""

from __future__ import annotations

import numpy as np

from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from deployments.artifact.sources import popularity
from deployments.messages import (
    PAD,
    CandidateBatch,
    ProfileBatch,
    RankedBatch,
    RequestBatch,
    ScoreBatch,
    take_columns,
)


def cold_profiles(requests: RequestBatch, dimension: int, n_features: int) -> ProfileBatch:
    """Cold-start profiles, without history. `dimension`: D; `n_features`: F."""
    rows = len(requests)
    return ProfileBatch(
        model_version=requests.model_version,
        item_BH=np.empty((rows, 0), np.int32),
        weight_BH=np.empty((rows, 0), np.float32),
        seen_BH=np.empty((rows, 0), np.bool_),
        type_BY=np.empty((rows, 0), np.int16),
        age_BY=np.empty((rows, 0), np.float32),
        user_vector_BD=np.zeros((rows, dimension), np.float32),
        features_BF=np.zeros((rows, n_features), np.float32),
        cold_B=np.ones(rows, np.bool_),
    )


class PopularItems:
    """The fallback of the candidate stage: the most popular items, from the artifact's popularity scores."""

    def __init__(self, artifact: Artifact, n_candidates: int = 200) -> None:
        self.model_version = artifact.model_version
        self._catalogue = Catalogue.load(artifact)
        self._sources = tuple(spec["name"] for spec in artifact.manifest.settings["sources"])
        kinds = [spec["kind"] for spec in artifact.manifest.settings["sources"]]
        self._source = kinds.index("popularity")
        self._score_N = popularity(artifact)
        self._order_N = np.lexsort((np.arange(len(self._score_N)), -self._score_N)).astype(np.int32)
        self._n_candidates = min(n_candidates, len(self._catalogue))

    def __call__(self, requests: RequestBatch, profiles: ProfileBatch) -> CandidateBatch:
        """As CandidateGenerator; leaves out the seen items that `profiles` contains."""
        width_B = np.minimum(np.maximum(requests.n_B, self._n_candidates), len(self._catalogue))
        width_B = np.where(requests.chosen_by_caller(), (requests.given_BG >= 0).sum(axis=1), width_B)
        item_BK = np.full((len(requests), int(width_B.max(initial=0))), PAD, np.int32)
        ranked = [self._order_N[self._catalogue.mask(condition)[self._order_N]] for condition in requests.filters]
        seen_item_BH = profiles.seen_item_BH
        for row, width in enumerate(width_B.tolist()):
            given = requests.given_BG[row][requests.given_BG[row] >= 0]
            unwanted = np.concatenate([seen_item_BH[row], requests.excluded_BX[row]])
            order = self._order_N if requests.filter_B[row] == PAD else ranked[requests.filter_B[row]]
            head = order[: width + len(unwanted)]  # enough even if all unwanted items are among them
            items = given if len(given) else head[~np.isin(head, unwanted)][:width]
            item_BK[row, : len(items)] = items
        mask_BK = item_BK >= 0
        score_BK = np.where(mask_BK, self._score_N[np.maximum(item_BK, 0)], np.float32(0))
        by_source_BKS = np.zeros((*item_BK.shape, len(self._sources)), np.float32)
        by_source_BKS[..., self._source] = score_BK
        return CandidateBatch(
            model_version=self.model_version,
            item_ids_BK=item_BK,
            retrieval_scores_BK=score_BK,
            source_BK=np.where(mask_BK, self._source, PAD).astype(np.int8),
            source_scores_BKS=by_source_BKS,
            mask_BK=mask_BK,
            sources=self._sources,
        )


def missing_shards(stage: str, found: CandidateBatch) -> list[str]:
    """The `degraded` entry of candidates to which not all shards contributed; none if all did."""
    answered, shards = found.shards
    return [f"{stage}:{answered}/{shards} shards"] if answered < shards else []


def retrieval_scores(candidates: CandidateBatch) -> ScoreBatch:
    """The retrieval scores in place of the model's."""
    scores_BK = np.where(candidates.mask_BK, candidates.retrieval_scores_BK, np.float32(-np.inf))
    return ScoreBatch(model_version=candidates.model_version, scores_BK=scores_BK)


def score_order(requests: RequestBatch, candidates: CandidateBatch, scores: ScoreBatch) -> RankedBatch:
    """The n best by score, ties by item position; no diversity, no rules."""
    width = int(requests.n_B.max(initial=0))
    order_BN = np.lexsort((candidates.item_ids_BK, -scores.scores_BK), axis=-1)[:, :width].astype(np.int32)
    available_B = candidates.mask_BK.sum(axis=1)
    rank_N = np.arange(order_BN.shape[1], dtype=np.int32)
    filled_BN = rank_N < np.minimum(requests.n_B, available_B)[:, None]
    choice_BN = np.where(filled_BN, order_BN, np.int32(PAD))
    score_BN = np.where(filled_BN, take_columns(scores.scores_BK, order_BN), np.float32(0))
    return RankedBatch(
        model_version=candidates.model_version,
        choice_BN=choice_BN,
        score_BN=score_BN,
        score_rank_BN=np.where(filled_BN, rank_N, np.int32(PAD)),
        diversity_penalty_BN=np.zeros_like(score_BN),
        rule_BN=np.full_like(choice_BN, PAD),
    )
