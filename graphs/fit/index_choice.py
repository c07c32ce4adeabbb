"""Chooses the index of item vectors: exact for a small catalogue, else inverted lists that reach the recall target.

Shapes: N items, Q queries, D dimensions.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import faiss
import numpy as np

from deployments.messages import Floats

EXACT_UP_TO = 50_000
"""Items up to which the search compares all of them: about 3 ms per batch of 32 on one core."""

TARGET, DEPTH = 0.98, 500
"""Mean share of the exact `DEPTH` best items that the index must find."""

QUERIES = 500
"""User vectors for measuring recall."""

_PER_LIST = 64
"""Vectors per inverted list for fitting the centres of the lists."""

_LANES = 8
"""Vectors are padded with zeros to a multiple of it. Faiss compares other lengths byte by byte, 6 times slower."""


class Choice(NamedTuple):
    """An index, and its entry in the manifest: kind, probed lists, recall."""

    index: Any
    settings: dict[str, Any]


def choose_index(vectors_ND: Floats, queries_QD: Floats, exact_up_to: int = EXACT_UP_TO) -> Choice:
    """An index over `vectors_ND` for inner products. `queries_QD`: user vectors for measuring recall.

    About 2 √N inverted lists store 8 bits per dimension (Faiss IVF…,SQ8). The number of probed lists grows by a
    sixteenth at a time until recall reaches TARGET. If half of the lists do not reach it, the index is exact.
    """
    n_items, dimension = vectors_ND.shape
    exact = faiss.IndexFlatIP(dimension)
    exact.add(vectors_ND)
    everything = Choice(exact, {"kind": "exact", f"recall@{DEPTH}": 1.0})
    if n_items <= exact_up_to:
        return everything
    depth = min(DEPTH, n_items)
    best_QR = exact.search(queries_QD, depth)[1]
    vectors_ND, queries_QD = (np.pad(v, ((0, 0), (0, -dimension % _LANES))) for v in (vectors_ND, queries_QD))
    n_lists = 2 ** round(math.log2(2 * math.sqrt(n_items)))
    index: Any = faiss.index_factory(vectors_ND.shape[1], f"IVF{n_lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(1).permutation(n_items)[: _PER_LIST * n_lists]
    index.train(vectors_ND[np.sort(sample)])
    index.add(vectors_ND)
    recall, probes = 0.0, 1
    while recall < TARGET and probes < n_lists // 2:
        probes = min(n_lists // 2, probes + max(1, probes // 16 if probes >= 16 else 1))
        index.nprobe = probes
        found_QR = index.search(queries_QD, depth)[1]
        hits = [len(np.intersect1d(found, best)) for found, best in zip(found_QR, best_QR, strict=True)]
        recall = sum(hits) / best_QR.size
    if recall < TARGET:
        return everything
    return Choice(index, {"kind": f"IVF{n_lists},SQ8", "probes": probes, f"recall@{DEPTH}": round(recall, 4)})
