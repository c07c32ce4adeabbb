"""The retrieval sources: each scores the whole catalogue for a request's history.

Shapes: b requests (a chunk of the batch), N items, K neighbours per item, D dimensions.
"""

from __future__ import annotations

from typing import Any, Literal

import faiss
import numpy as np
import scipy.sparse as sp
from pydantic import BaseModel, ConfigDict, Field

from deployments.messages import PAD, Bools, Floats, Ints
from deployments.models import history
from deployments.models.artifact import Artifact

READ = 150
"""Most recent events that neighbour sources read."""


class SourceSpec(BaseModel):
    """One entry of the manifest's `settings.sources`. `quota`: candidates it may bring before others catch up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["neighbours", "vectors", "popularity"]
    quota: int = Field(ge=1)
    table: str = ""
    """neighbours: which table of `neighbours.safetensors`."""
    decay: float = 10.0
    """neighbours: events until an event counts 1/e."""


class Neighbours:
    """An item-to-item table applied to the history: scores = Σ evidence(event) · weight(event's item → item)."""

    def __init__(self, ids_NK: Ints, weights_NK: Floats) -> None:
        n_items, width = ids_NK.shape
        starts = np.arange(0, n_items * width + 1, width, dtype=np.int32)
        self._table = sp.csr_matrix(
            (weights_NK.reshape(-1), np.maximum(ids_NK, 0).reshape(-1), starts), shape=(n_items, n_items), copy=False
        )

    def scores(self, item_BH: Ints, weight_BH: Floats, decay: float) -> Floats:
        """[b, N] for histories [b, H]."""
        evidence_BH = history.evidence(item_BH, weight_BH, decay)
        row, column = np.nonzero((evidence_BH > 1e-4) & history.recent(item_BH, READ))
        shape = (len(item_BH), self._table.shape[0])
        query = sp.csr_matrix((evidence_BH[row, column], (row, item_BH[row, column])), shape=shape)
        dense: Floats = (query @ self._table).toarray()
        return dense


def popularity(artifact: Artifact) -> Floats:
    """The popularity source's scores [N], the same for everybody: log share of events, recent and over all time."""
    scores_N: Floats = artifact.tensors("popularity.safetensors")["score_N"]
    return scores_N


class Vectors:
    """The two-tower source: item vectors in a Faiss index (`items.faiss`), searched with the user's vector."""

    def __init__(self, artifact: Artifact) -> None:
        self.vectors_ND: Floats = artifact.tensors("items.safetensors")["item_vectors_ND"]
        self._index: Any = faiss.read_index(str(artifact.path("items.faiss")), faiss.IO_FLAG_MMAP)

    def search(self, user_vector_BD: Floats, blocked_BN: Bools, depth: int) -> tuple[Ints, Floats]:
        """The `depth` best items not blocked, best first: ids [b, depth] (-1 padded) and scores."""
        rows = len(user_vector_BD)
        ids = np.full((rows, depth), PAD, np.int32)
        scores = np.full((rows, depth), -np.inf, np.float32)
        blocked_B = blocked_BN.sum(axis=1)
        few_B = blocked_B <= 2 * depth  # then asking for more and dropping is cheaper than a selector per row
        if few_B.any():
            reach = min(depth + int(blocked_B[few_B].max()), blocked_BN.shape[1])
            found_scores, found = self._index.search(user_vector_BD[few_B], reach)
            blocked = np.take_along_axis(blocked_BN[few_B], np.maximum(found, 0), axis=1) | (found < 0)
            order = blocked.argsort(axis=1, kind="stable")[:, :depth]
            kept = ~np.take_along_axis(blocked, order, axis=1)
            width = order.shape[1]
            ids[few_B, :width] = np.where(kept, np.take_along_axis(found, order, axis=1), PAD)
            scores[few_B, :width] = np.where(kept, np.take_along_axis(found_scores, order, axis=1), -np.inf)
        for row in np.flatnonzero(~few_B):
            bits = np.packbits(~blocked_BN[row], bitorder="little")
            selector: Any = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
            found_scores, found = self._index.search(user_vector_BD[row : row + 1], depth, params=parameters)
            ids[row], scores[row] = found[0], np.where(found[0] >= 0, found_scores[0], -np.inf)
        return ids, scores

    def at(self, user_vector_BD: Floats, item_BK: Ints) -> Floats:
        """Scores [b, K] of the given items."""
        dots: Floats = np.einsum("bd,bkd->bk", user_vector_BD, self.vectors_ND[np.maximum(item_BK, 0)])
        return dots
