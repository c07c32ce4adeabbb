"""Search by item vectors, over the catalogue or one shard of it: exact for small catalogues, else inverted lists.

Shapes: B requests, N items of the shard, K candidates, R ranks in a list, U items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np

from deployments.artifact.reader import Artifact
from deployments.messages import PAD, Array, Bools, Floats, Ints, pad_columns, take_columns
from deployments.retrieval.partition import Shard

_MAX_EXHAUSTIVE = 20_000
"""Up to so many allowed items are compared one by one: inverted lists would miss most of them."""

_MAX_OVERFETCH = 4000
"""Up to so many unwanted items are searched and dropped. More need a selector, and so one search per row."""

_COSINE_OVERFETCH = 10
"""For the nearest items by cosine, so many times more are searched by inner product."""

_SUBSET_TYPE_MODULO = 1
"""Faiss' InvertedLists::SUBSET_TYPE_ID_MOD."""


class VectorIndex:
    """The two-tower source: item vectors in a Faiss index (`items.faiss`), searched with the user's vector.

    Items are positions in the shard, except the seed of `nearest_by_cosine` and `cosines`.
    """

    def __init__(self, artifact: Artifact, shard: Shard) -> None:
        self._all_vectors_ND: Floats = artifact.tensors("items.safetensors")["item_vectors_ND"]
        self.vectors_ND: Floats = shard.select_rows(self._all_vectors_ND)
        self._shard = shard
        self._index: Any = faiss.read_index(str(artifact.path("items.faiss")), faiss.IO_FLAG_MMAP)
        self.exact = isinstance(self._index, faiss.IndexFlat)
        """The index compares every item: then `score_all` is cheaper than `search`, with any filter."""
        if shard.count > 1 and not self.exact:
            self._index = _shard_index(str(artifact.path("items.faiss")), shard)
        elif not self.exact:
            mapped: Any = faiss.extract_index_ivf(self._index).invlists
            lists: Any = faiss.downcast_InvertedLists(mapped)
            lists.prefetch_nthread = 0  # by default Faiss starts 32 read-ahead threads at every search

    def score_all(self, user_vector_BD: Floats) -> Floats:
        """Every item's score [B, N]."""
        dots: Floats = user_vector_BD @ self.vectors_ND.T
        return dots

    def search(
        self, user_vector_BD: Floats, unwanted: Sequence[Ints], passes: Sequence[Bools], depth: int
    ) -> tuple[Ints, Floats]:
        """The `depth` best allowed items that the index finds, with their scores: [B, R], best first, -1 padded.

        `unwanted`: per row, items to leave out. `passes`: per row, bool [N], True where the filter passes; empty: all
        pass. Scores are exact, also where the index compares compressed vectors.
        """
        depth = min(depth, len(self.vectors_ND))
        item_BR = np.full((len(user_vector_BD), depth), PAD, np.int32)
        query_BD = self._padded(user_vector_BD)
        more_B = np.array(
            [_MAX_OVERFETCH + 1 if len(p) else len(u) for u, p in zip(unwanted, passes, strict=True)], np.intp
        )
        much_B = more_B > 2 * depth  # these rows need a deeper search, which the other rows are spared
        for group_B in (~much_B, much_B & (more_B <= _MAX_OVERFETCH)):
            rows = np.flatnonzero(group_B)
            if len(rows):
                reach = min(depth + int(more_B[rows].max()), len(self.vectors_ND))
                found_BR = self._index.search(query_BD[rows], reach)[1]
                self._drop_unwanted(
                    np.where(found_BR >= 0, found_BR // self._shard.count, PAD), rows.tolist(), unwanted, item_BR
                )
        for row in np.flatnonzero(more_B > _MAX_OVERFETCH).tolist():
            found = self._search_allowed(query_BD[row : row + 1], unwanted[row], passes[row], depth)
            item_BR[row, : len(found)] = found // self._shard.count
        score_BR = np.where(item_BR >= 0, self.score(user_vector_BD, item_BR), np.float32(-np.inf))
        order_BR = np.lexsort((item_BR, -score_BR), axis=-1)
        return take_columns(item_BR, order_BR), take_columns(score_BR, order_BR)

    def _drop_unwanted(self, found_BR: Ints, rows: Sequence[int], unwanted: Sequence[Ints], item_BR: Ints) -> None:
        """Fills the rows of `item_BR` with the found items, in order, less the unwanted ones."""
        blocked_N = np.zeros(len(self.vectors_ND), np.bool_)
        for row, found_R in zip(rows, found_BR, strict=True):
            blocked_N[unwanted[row]] = True
            kept = found_R[(found_R >= 0) & ~blocked_N[found_R]][: item_BR.shape[1]]
            item_BR[row, : len(kept)] = kept
            blocked_N[unwanted[row]] = False

    def _search_allowed(self, vector_1D: Floats, unwanted: Ints, passes_N: Bools, depth: int) -> Ints:
        """The `depth` best allowed items, as catalogue positions, in any order."""
        allowed_N = passes_N.copy() if len(passes_N) else np.ones(len(self.vectors_ND), np.bool_)
        allowed_N[unwanted] = False
        item_A = np.flatnonzero(allowed_N)
        if len(item_A) <= _MAX_EXHAUSTIVE:
            if len(item_A) > depth:
                score_A = self.vectors_ND[item_A] @ vector_1D[0, : self.vectors_ND.shape[1]]
                item_A = item_A[np.argpartition(-score_A, depth)[:depth]]
            return self._shard.to_catalogue(item_A.astype(np.int32))
        if self._shard.count > 1:
            allowed_N, own_N = np.zeros(len(self._all_vectors_ND), np.bool_), allowed_N
            allowed_N[self._shard.index :: self._shard.count] = own_N
        selector: Any = faiss.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))  # type: ignore[call-arg, arg-type]
        if hasattr(self._index, "nprobe"):
            parameters: Any = faiss.SearchParametersIVF(sel=selector, nprobe=self._index.nprobe)  # type: ignore[call-arg]
        else:
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        found: Ints = self._index.search(vector_1D, depth, params=parameters)[1][0]
        return found[found >= 0].astype(np.int32)

    def _padded(self, vector_BD: Floats) -> Floats:
        """The vectors padded with zeros to the index's dimension, see `graphs.fit.index_choice`."""
        return pad_columns(vector_BD, self._index.d)

    def score(self, user_vector_BD: Floats, item_BK: Ints) -> Floats:
        """Scores [B, K] of the given items."""
        dots: Floats = np.einsum("bd,bkd->bk", user_vector_BD, self.vectors_ND[np.maximum(item_BK, 0)])
        return dots

    def nearest_by_cosine(self, seed: int, reach: int) -> Ints:
        """The items [R] nearest to `seed` (a catalogue position) by cosine, in any order.

        An index that is not exact searches only the items with the highest inner products.
        """
        if self.exact:
            item_U: Array = np.arange(len(self.vectors_ND))
        else:
            query_1D = self._all_vectors_ND[seed : seed + 1].copy()
            query_1D[:, -1] = 0
            found = self._index.search(self._padded(query_1D), min(_COSINE_OVERFETCH * reach, self._index.ntotal))[1][0]
            item_U = found[found >= 0] // self._shard.count
        if len(item_U) > reach:
            item_U = item_U[np.argpartition(-self.cosines(seed, item_U), reach - 1)[:reach]]
        return item_U.astype(np.int32)

    def cosines(self, seed: int, item_U: Array) -> Floats:
        """Cosines [U] of the vectors of `seed` (a catalogue position) and of items, without the popularity bias."""
        seed_D, item_UD = self._all_vectors_ND[seed, :-1], self.vectors_ND[item_U, :-1]
        norm_U = np.linalg.norm(item_UD, axis=1) * np.linalg.norm(seed_D)
        cosine_U: Floats = item_UD @ seed_D / np.maximum(norm_U, 1e-9)
        return cosine_U


def _shard_index(path: str, shard: Shard) -> Any:
    """The shard's entries of an index of inverted lists.

    It probes the same lists as the whole index, so all shards together find the same items as the whole index.
    """
    whole: Any = faiss.read_index(path, faiss.IO_FLAG_MMAP)
    own: Any = faiss.read_index(path, faiss.IO_FLAG_MMAP)
    lists: Any = faiss.ArrayInvertedLists(own.nlist, own.code_size)
    own.replace_invlists(lists, True)
    lists.this.disown()  # the index now owns the lists
    own.ntotal = 0
    whole.copy_subset_to(own, _SUBSET_TYPE_MODULO, shard.count, shard.index)
    return own
