"""Items similar to one item, from neighbour tables and vectors, over the shards of the catalogue.

Shapes: B requests, U items of a shard's answer, S sources (the tables, then the vectors), K similar items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.messages import PAD, CandidateBatch, RequestBatch, ShardBatch, pad_columns, same_model, take_columns
from deployments.retrieval.retriever import Retriever


def similar_in_shard(retrieval: Retriever, version: str, requests: RequestBatch) -> ShardBatch:
    """The shard's items similar to the one item of each row's `given_BG`.

    These are its neighbours and enough of the nearest vectors that the n best are among them.
    """
    items, scores = [], []
    names = (*retrieval.tables, "two_tower")
    for seed, n in zip(requests.given_BG[:, 0].tolist(), requests.n_B.tolist(), strict=True):
        ids = [ids_NW[seed] for ids_NW in retrieval.sources.ids_TNW[: len(retrieval.tables)]]
        near = np.unique(np.concatenate([found[found >= 0] for found in ids]))
        item_U = np.union1d(near, retrieval.vectors.nearest_by_cosine(seed, n + 1 + len(near)))
        item_U = item_U[retrieval.shard.to_catalogue(item_U) != seed].astype(np.int32)
        raw_US = np.zeros((len(item_U), len(names)), np.float32)
        for column, (found, weights_NW) in enumerate(zip(ids, retrieval.sources.weights_TNW, strict=False)):
            present = (found >= 0) & np.isin(found, item_U)
            raw_US[np.searchsorted(item_U, found[present]), column] = weights_NW[seed][present]
        raw_US[:, -1] = np.maximum(retrieval.vectors.cosines(seed, item_U), 0)
        items.append(retrieval.shard.to_catalogue(item_U))
        scores.append(raw_US)
    width = max(map(len, items), default=0)
    return ShardBatch(
        model_version=version,
        item_BU=np.stack([pad_columns(item_U[None], width)[0] for item_U in items])
        if items
        else np.empty((0, 0), np.int32),
        raw_BUS=np.stack([pad_columns(raw_US[None], width)[0] for raw_US in scores])
        if scores
        else np.empty((0, 0, len(names)), np.float32),
        list_BSR=np.empty((len(items), len(names), 0), np.int16),
        sources=names,
    )


def rank_similar(requests: RequestBatch, answers: Sequence[ShardBatch]) -> CandidateBatch:
    """The n best of the shards' items: each source is divided by its best score, then averaged; ties by position."""
    version = same_model(requests, *answers)
    item_BU = np.concatenate([answer.item_BU for answer in answers], axis=1)
    raw_BUS = np.concatenate([answer.raw_BUS for answer in answers], axis=1)
    scaled_BUS = raw_BUS / np.maximum(raw_BUS.max(axis=1, keepdims=True, initial=0), 1e-9)
    total_BU = np.where(item_BU >= 0, scaled_BUS.mean(axis=2), -np.inf)
    order_BK = np.lexsort((item_BU, -total_BU), axis=-1)[:, : int(requests.n_B.max(initial=1))]
    score_BK = take_columns(total_BU, order_BK)
    mask_BK = np.isfinite(score_BK) & (np.arange(score_BK.shape[1]) < requests.n_B[:, None])
    by_source_BKS = take_columns(scaled_BUS, order_BK) * mask_BK[..., None]
    return CandidateBatch(
        model_version=version,
        item_ids_BK=np.where(mask_BK, take_columns(item_BU, order_BK), PAD).astype(np.int32),
        retrieval_scores_BK=np.where(mask_BK, score_BK, 0).astype(np.float32),
        source_BK=np.where(mask_BK, by_source_BKS.argmax(axis=2), PAD).astype(np.int8),
        source_scores_BKS=by_source_BKS.astype(np.float32),
        mask_BK=mask_BK,
        sources=answers[0].sources,
    )
