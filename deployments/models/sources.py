"""The retrieval sources: each scores the whole catalogue for a request's history.

Shapes: b requests (a chunk of the batch), N items, K neighbours per item, D dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import faiss
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from deployments.messages import PAD, Bools, Floats, Ints
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


def popularity(artifact: Artifact) -> Floats:
    """The popularity source's scores [N], the same for everybody: log share of events, recent and over all time."""
    scores_N: Floats = artifact.tensors("popularity.safetensors")["score_N"]
    return scores_N


class Vectors:
    """The two-tower source: item vectors in a Faiss index (`items.faiss`), searched with the user's vector."""

    def __init__(self, artifact: Artifact) -> None:
        self.vectors_ND: Floats = artifact.tensors("items.safetensors")["item_vectors_ND"]
        self._index: Any = faiss.read_index(str(artifact.path("items.faiss")), faiss.IO_FLAG_MMAP)

        self.exact = isinstance(self._index, faiss.IndexFlat)
        """Every item is compared: then `all` is cheaper than `search`, whatever is filtered."""

    def all(self, user_vector_BD: Floats) -> Floats:
        """Every item's score [B, N]."""
        dots: Floats = user_vector_BD @ self.vectors_ND.T
        return dots

    def search(
        self, user_vector_BD: Floats, unwanted: Sequence[Ints], passes: Sequence[Bools], depth: int
    ) -> tuple[Ints, Floats]:
        """Items and scores [B, R], best first, -1 padded. Among them are the `depth` best that are allowed, but others
        may be as well. `unwanted`: items a row must not get; `passes`: those its filter lets through, empty: all.
        """
        n_items = len(self.vectors_ND)
        rows = len(user_vector_BD)
        few = np.array([len(u) <= 2 * depth and not len(p) for u, p in zip(unwanted, passes, strict=True)], np.bool_)
        reach = min(depth + max((len(u) for u, plain in zip(unwanted, few, strict=True) if plain), default=0), n_items)
        ids = np.full((rows, reach), PAD, np.int32)
        scores = np.full((rows, reach), -np.inf, np.float32)
        if few.any():  # asking for more and dropping is cheaper than a selector per row
            scores[few], ids[few] = self._index.search(user_vector_BD[few], reach)
        for row in np.flatnonzero(~few).tolist():
            allowed_N = passes[row].copy() if len(passes[row]) else np.ones(n_items, np.bool_)
            allowed_N[unwanted[row]] = False
            selector: Any = faiss.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))  # type: ignore[call-arg, arg-type]
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
            scores[row, :depth], ids[row, :depth] = self._index.search(
                user_vector_BD[row : row + 1], depth, params=parameters
            )
        return ids, scores

    def at(self, user_vector_BD: Floats, item_BK: Ints) -> Floats:
        """Scores [b, K] of the given items."""
        dots: Floats = np.einsum("bd,bkd->bk", user_vector_BD, self.vectors_ND[np.maximum(item_BK, 0)])
        return dots

    def cosines(self, item_B: Ints) -> Floats:
        """Cosine [B, N] of the given items' vectors with all, popularity bias left out."""
        vectors_ND = self.vectors_ND[:, :-1]
        cosine_BN: Floats = (vectors_ND[item_B] @ vectors_ND.T) / self._norm_N / self._norm_N[item_B][:, None]
        return cosine_BN

    @functools.cached_property
    def _norm_N(self) -> Floats:
        norm_N: Floats = np.maximum(np.linalg.norm(self.vectors_ND[:, :-1], axis=1), 1e-9)
        return norm_N
