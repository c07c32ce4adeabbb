"""The index of item vectors, whole or a part of it: exact for small catalogues, inverted lists for large ones.

Shapes: B requests, N items of the part, K candidates, R places in a list, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import faiss
import numpy as np

from deployments.artifact.reader import Artifact
from deployments.messages import PAD, Array, Bools, Floats, Ints, at, pad_columns

_FEW = 20_000
"""So many items that pass a filter are compared one by one: inverted lists would miss most of them."""

_MORE = 4000
"""So many unwanted items are found and dropped rather than kept out by a selector, which takes a search per row."""

_WIDER = 10
"""So many times more items are looked up by inner product than are wanted by cosine."""

_COPY_BY_REMAINDER = 1
"""Faiss' InvertedLists::SUBSET_TYPE_ID_MOD."""


class Part(NamedTuple):
    """The items whose position leaves the remainder `number` when divided by `of`. Position p of the catalogue is
    p // of inside it."""

    number: int = 0
    of: int = 1

    def size(self, n_items: int) -> int:
        """Items of the catalogue that belong to it."""
        return len(range(self.number, n_items, self.of))

    def local(self, items: Ints) -> Ints:
        """Its own among `items`, as positions inside it."""
        return items if self.of == 1 else (items[items % self.of == self.number] // self.of).astype(np.int32)

    def everywhere(self, items: Ints) -> Ints:
        """Positions inside it as positions in the catalogue; padding stays."""
        return items if self.of == 1 else np.where(items >= 0, items * self.of + self.number, PAD).astype(np.int32)

    def rows(self, array: Array) -> Array:
        """Its rows of `array` [N of the catalogue, …], read-only and dense in memory."""
        if self.of == 1:
            return array
        own = np.ascontiguousarray(array[self.number :: self.of])
        own.setflags(write=False)
        return own


WHOLE = Part()


class Vectors:
    """The two-tower source: item vectors in a Faiss index (`items.faiss`), searched with the user's vector.

    Items are positions inside `part`, but for the seed of `alike` and `cosines`.
    """

    def __init__(self, artifact: Artifact, part: Part) -> None:
        self._all_vectors_ND: Floats = artifact.tensors("items.safetensors")["item_vectors_ND"]
        self.vectors_ND: Floats = part.rows(self._all_vectors_ND)
        self._part = part
        self._index: Any = faiss.read_index(str(artifact.path("items.faiss")), faiss.IO_FLAG_MMAP)
        self.exact = isinstance(self._index, faiss.IndexFlat)
        """Every item is compared: then `all` is cheaper than `search`, whatever is filtered."""
        if part.of > 1 and not self.exact:
            self._index = _subset(str(artifact.path("items.faiss")), part)
        elif not self.exact:
            mapped: Any = faiss.extract_index_ivf(self._index).invlists
            lists: Any = faiss.downcast_InvertedLists(mapped)
            lists.prefetch_nthread = 0  # by default Faiss starts 32 threads at every search, which read ahead

    def all(self, user_vector_BD: Floats) -> Floats:
        """Every item's score [B, N]."""
        dots: Floats = user_vector_BD @ self.vectors_ND.T
        return dots

    def search(
        self, user_vector_BD: Floats, unwanted: Sequence[Ints], passes: Sequence[Bools], depth: int
    ) -> tuple[Ints, Floats]:
        """The `depth` best items that are allowed, as far as the index finds them, with their scores [B, R], best
        first, -1 padded. `unwanted`: items a row must not get; `passes`: those its filter lets through, empty: all.
        Scores are exact, whatever the index compares.
        """
        depth = min(depth, len(self.vectors_ND))
        item_BR = np.full((len(user_vector_BD), depth), PAD, np.int32)
        query_BD = self._padded(user_vector_BD)
        more_B = np.array([_MORE + 1 if len(p) else len(u) for u, p in zip(unwanted, passes, strict=True)], np.intp)
        much_B = more_B > 2 * depth  # a search of their own, so that others need not find as many
        for group_B in (~much_B, much_B & (more_B <= _MORE)):
            rows = np.flatnonzero(group_B)
            if len(rows):
                reach = min(depth + int(more_B[rows].max()), len(self.vectors_ND))
                found_BR = self._index.search(query_BD[rows], reach)[1]
                self._drop(np.where(found_BR >= 0, found_BR // self._part.of, PAD), rows.tolist(), unwanted, item_BR)
        for row in np.flatnonzero(more_B > _MORE).tolist():
            found = self._allowed(query_BD[row : row + 1], unwanted[row], passes[row], depth)
            item_BR[row, : len(found)] = found // self._part.of
        score_BR = np.where(item_BR >= 0, self.at(user_vector_BD, item_BR), np.float32(-np.inf))
        order_BR = np.lexsort((item_BR, -score_BR), axis=-1)
        return at(item_BR, order_BR), at(score_BR, order_BR)

    def _drop(self, found_BR: Ints, rows: Sequence[int], unwanted: Sequence[Ints], item_BR: Ints) -> None:
        """Fills the rows of `item_BR` with the first of what was found for them that are not unwanted."""
        blocked_N = np.zeros(len(self.vectors_ND), np.bool_)
        for row, found_R in zip(rows, found_BR, strict=True):
            blocked_N[unwanted[row]] = True
            kept = found_R[(found_R >= 0) & ~blocked_N[found_R]][: item_BR.shape[1]]
            item_BR[row, : len(kept)] = kept
            blocked_N[unwanted[row]] = False

    def _allowed(self, vector_1D: Floats, unwanted: Ints, passes_N: Bools, depth: int) -> Ints:
        """The `depth` best allowed items, numbered as the index does, in any order."""
        allowed_N = passes_N.copy() if len(passes_N) else np.ones(len(self.vectors_ND), np.bool_)
        allowed_N[unwanted] = False
        item_A = np.flatnonzero(allowed_N)
        if len(item_A) <= _FEW:
            if len(item_A) > depth:
                score_A = self.vectors_ND[item_A] @ vector_1D[0, : self.vectors_ND.shape[1]]
                item_A = item_A[np.argpartition(-score_A, depth)[:depth]]
            return self._part.everywhere(item_A.astype(np.int32))
        if self._part.of > 1:
            allowed_N, own_N = np.zeros(len(self._all_vectors_ND), np.bool_), allowed_N
            allowed_N[self._part.number :: self._part.of] = own_N
        selector: Any = faiss.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))  # type: ignore[call-arg, arg-type]
        if hasattr(self._index, "nprobe"):
            parameters: Any = faiss.SearchParametersIVF(sel=selector, nprobe=self._index.nprobe)  # type: ignore[call-arg]
        else:
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        found: Ints = self._index.search(vector_1D, depth, params=parameters)[1][0]
        return found[found >= 0].astype(np.int32)

    def _padded(self, vector_BD: Floats) -> Floats:
        """As the index has them: padded with zeros, see `graphs.fit.index_choice`."""
        return pad_columns(vector_BD, self._index.d)

    def at(self, user_vector_BD: Floats, item_BK: Ints) -> Floats:
        """Scores [B, K] of the given items."""
        dots: Floats = np.einsum("bd,bkd->bk", user_vector_BD, self.vectors_ND[np.maximum(item_BK, 0)])
        return dots

    def alike(self, seed: int, reach: int) -> Ints:
        """The items [R] nearest to `seed` (a position in the catalogue) by cosine, in any order. An index that is not
        exact finds them among those with the highest inner product."""
        if self.exact:
            item_U: Array = np.arange(len(self.vectors_ND))
        else:
            query_1D = self._all_vectors_ND[seed : seed + 1].copy()
            query_1D[:, -1] = 0
            found = self._index.search(self._padded(query_1D), min(_WIDER * reach, self._index.ntotal))[1][0]
            item_U = found[found >= 0] // self._part.of
        if len(item_U) > reach:
            item_U = item_U[np.argpartition(-self.cosines(seed, item_U), reach - 1)[:reach]]
        return item_U.astype(np.int32)

    def cosines(self, seed: int, item_U: Array) -> Floats:
        """Cosine [U] of the vector of `seed` (a position in the catalogue) with those of items, popularity bias left
        out."""
        seed_D, item_UD = self._all_vectors_ND[seed, :-1], self.vectors_ND[item_U, :-1]
        norm_U = np.linalg.norm(item_UD, axis=1) * np.linalg.norm(seed_D)
        cosine_U: Floats = item_UD @ seed_D / np.maximum(norm_U, 1e-9)
        return cosine_U


def _subset(path: str, part: Part) -> Any:
    """The part's entries of an index of inverted lists; it probes the same lists as the whole, so the parts find what
    the whole finds."""
    whole: Any = faiss.read_index(path, faiss.IO_FLAG_MMAP)
    own: Any = faiss.read_index(path, faiss.IO_FLAG_MMAP)
    lists: Any = faiss.ArrayInvertedLists(own.nlist, own.code_size)
    own.replace_invlists(lists, True)
    lists.this.disown()  # the index owns them now
    own.ntotal = 0
    whole.copy_subset_to(own, _COPY_BY_REMAINDER, part.of, part.number)
    return own
