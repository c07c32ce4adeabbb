"""Items that go with one item: neighbour tables and vectors together, over parts of the catalogue.

Shapes: B requests, U items of a part, S what speaks for an item (the tables, then the vectors).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.messages import PAD, CandidateBatch, PartBatch, RequestBatch, at, pad_columns, same_model
from deployments.retrieval.retriever import Retriever


def similar_part(retrieval: Retriever, version: str, requests: RequestBatch) -> PartBatch:
    """What the part has for the one item of each row's `given_BG`: its neighbours, and as many more by their vectors
    that the n best are among them."""
    items, scores = [], []
    names = (*retrieval.tables, "two_tower")
    for seed, n in zip(requests.given_BG[:, 0].tolist(), requests.n_B.tolist(), strict=True):
        ids = [ids_NW[seed] for ids_NW in retrieval.sources.ids_TNW]
        near = np.unique(np.concatenate([found[found >= 0] for found in ids]))
        item_U = np.union1d(near, retrieval.vectors.alike(seed, n + 1 + len(near)))
        item_U = item_U[retrieval.part.everywhere(item_U) != seed].astype(np.int32)
        raw_US = np.zeros((len(item_U), len(names)), np.float32)
        for column, (found, weights_NW) in enumerate(zip(ids, retrieval.sources.weights_TNW, strict=True)):
            known = (found >= 0) & np.isin(found, item_U)
            raw_US[np.searchsorted(item_U, found[known]), column] = weights_NW[seed][known]
        raw_US[:, -1] = np.maximum(retrieval.vectors.cosines(seed, item_U), 0)
        items.append(retrieval.part.everywhere(item_U))
        scores.append(raw_US)
    width = max(map(len, items), default=0)
    return PartBatch(
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


def rank_similar(requests: RequestBatch, parts: Sequence[PartBatch]) -> CandidateBatch:
    """The n best of what the parts have: each source scaled by the best it gives, then their mean; ties by item."""
    version = same_model(requests, *parts)
    item_BU = np.concatenate([part.item_BU for part in parts], axis=1)
    raw_BUS = np.concatenate([part.raw_BUS for part in parts], axis=1)
    scaled_BUS = raw_BUS / np.maximum(raw_BUS.max(axis=1, keepdims=True, initial=0), 1e-9)
    total_BU = np.where(item_BU >= 0, scaled_BUS.mean(axis=2), -np.inf)
    order_BK = np.lexsort((item_BU, -total_BU), axis=-1)[:, : int(requests.n_B.max(initial=1))]
    score_BK = at(total_BU, order_BK)
    mask_BK = np.isfinite(score_BK) & (np.arange(score_BK.shape[1]) < requests.n_B[:, None])
    by_source_BKS = at(scaled_BUS, order_BK) * mask_BK[..., None]
    return CandidateBatch(
        model_version=version,
        item_ids_BK=np.where(mask_BK, at(item_BU, order_BK), PAD).astype(np.int32),
        retrieval_scores_BK=np.where(mask_BK, score_BK, 0).astype(np.float32),
        source_BK=np.where(mask_BK, by_source_BKS.argmax(axis=2), PAD).astype(np.int8),
        source_scores_BKS=by_source_BKS.astype(np.float32),
        mask_BK=mask_BK,
        sources=parts[0].sources,
    )
