"""The next best thing for each stage: cheap, local, and never failing.

profile → cold start; candidates → popular items (`PopularItems` in candidates.py); scores → retrieval scores;
ranking → score order.
"""

from __future__ import annotations

import numpy as np

from deployments.messages import (
    PAD,
    CandidateBatch,
    ProfileBatch,
    RankedBatch,
    RequestBatch,
    ScoreBatch,
)


def cold_profiles(requests: RequestBatch, dimension: int) -> ProfileBatch:
    """Profiles of users of whom nothing is known. `dimension`: D of the user vector."""
    rows = len(requests)
    return ProfileBatch(
        model_version=requests.model_version,
        item_BH=np.empty((rows, 0), np.int32),
        timestamp_BH=np.empty((rows, 0), np.float64),
        weight_BH=np.empty((rows, 0), np.float32),
        user_vector_BD=np.zeros((rows, dimension), np.float32),
        cold_B=np.ones(rows, np.bool_),
    )


def retrieval_scores(candidates: CandidateBatch) -> ScoreBatch:
    """The retrieval scores as if the model had given them."""
    scores_BK = np.where(candidates.mask_BK, candidates.retrieval_scores_BK, np.float32(-np.inf))
    return ScoreBatch(model_version=candidates.model_version, scores_BK=scores_BK)


def score_order(requests: RequestBatch, candidates: CandidateBatch, scores: ScoreBatch) -> RankedBatch:
    """The n best by score, ties by item id; no diversity, no rules."""
    width = int(requests.n_B.max(initial=0))
    order_BN = np.lexsort((candidates.item_ids_BK, -scores.scores_BK), axis=-1)[:, :width].astype(np.int32)
    available_B = candidates.mask_BK.sum(axis=1)
    place_N = np.arange(order_BN.shape[1], dtype=np.int32)
    filled_BN = place_N < np.minimum(requests.n_B, available_B)[:, None]
    choice_BN = np.where(filled_BN, order_BN, np.int32(PAD))
    score_BN = np.where(filled_BN, np.take_along_axis(scores.scores_BK, order_BN, axis=1), np.float32(0))
    return RankedBatch(
        model_version=candidates.model_version,
        choice_BN=choice_BN,
        score_BN=score_BN,
        score_rank_BN=np.where(filled_BN, place_N, np.int32(PAD)),
        diversity_penalty_BN=np.zeros_like(score_BN),
        rule_BN=np.full_like(choice_BN, PAD),
    )
