"""The retrieval sources of an artifact, over the catalogue or one shard of it, as arrays for the compiled kernels.

Shapes: B requests, L events read, N items of the shard, S sources, V views (neighbour sources), R ranks in a list.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from deployments.artifact.sources import SOURCE_HISTORY_LENGTH, SourceSpec, popularity
from deployments.messages import PAD, Array, Bools, Floats, Ints, ProfileBatch, RequestBatch
from deployments.models.features import history_weights
from deployments.retrieval.kernels import SCALE_DEPTH, Lists, RetrievalRequest, Sources, Workspace, workspace
from deployments.retrieval.partition import WHOLE_CATALOGUE, Shard
from deployments.retrieval.vector_index import VectorIndex

LIST_DEPTH = 150
"""Length R of each source's list."""

_MIN_EVIDENCE = 1e-4
"""Events with less evidence are too old to count."""

_MIN_SPAN = 1e-3
"""Least score range of the vectors' list to scale by; a smaller range may be rounding alone."""

NO_FILTER: Bools = np.zeros(0, np.bool_)
"""The filter mask of a request without filter: all items pass."""
NO_FILTER.setflags(write=False)  # the type of the catalogue's masks, so that the kernels compile once


class Retriever:
    """The sources of `shard`, and requests as the kernels read them. Items are positions in the shard."""

    def __init__(self, artifact: Artifact, shard: Shard = WHOLE_CATALOGUE) -> None:
        self.shard = shard
        self.catalogue = Catalogue.load(artifact)
        n_items = len(self.catalogue)
        self.n_items = shard.size(n_items)
        specs = [SourceSpec.model_validate(spec) for spec in artifact.manifest.settings["sources"]]
        self.names = tuple(spec.name for spec in specs)
        neighbours = [spec for spec in specs if spec.kind == "neighbours"]
        self.tables = list(dict.fromkeys(view.table for view in neighbours))
        neighbours.sort(key=lambda view: (self.tables.index(view.table), -view.decay))
        views = [*neighbours, *(spec for spec in specs if spec.kind == "history")]
        table_V = [self.tables.index(view.table) for view in neighbours] + [len(self.tables)] * (
            len(views) - len(neighbours)
        )
        self._decay_V = np.array([view.decay for view in views], np.float32)
        self.vectors = VectorIndex(artifact, shard)
        self.popularity_N = shard.select_rows(popularity(artifact))
        self.depth = min(LIST_DEPTH, n_items)
        tensors = artifact.tensors("neighbours.safetensors")
        near = [_shard_table(tensors[f"{name}_ids_NK"], tensors[f"{name}_weights_NK"], shard) for name in self.tables]
        if len(views) > len(neighbours):
            near.append(_shard_table(*_identity(n_items), shard))
        kinds = [spec.kind for spec in specs]
        self.sources = Sources(
            quota_S=np.array([spec.quota for spec in specs], np.int32),
            depth_S=np.array(
                [self.depth if s.kind == "vectors" else max(s.quota, SCALE_DEPTH) for s in specs], np.int32
            ),
            view_V=np.array([specs.index(view) for view in views], np.int32),
            first_T=np.searchsorted(table_V, range(len(near) + 1)).astype(np.int32),
            ids_TNW=tuple(ids for ids, _ in near),
            weights_TNW=tuple(weights for _, weights in near),
            order_N=np.argsort(-self.popularity_N, kind="stable").astype(np.int32),
            popular=kinds.index("popularity"),
            vectors=kinds.index("vectors"),
            neighbours_X=np.array([specs.index(view) for view in neighbours], np.int32),
        )
        self._scratch = threading.local()

    def requests(self, requests: RequestBatch, profiles: ProfileBatch) -> Iterator[RetrievalRequest]:
        """Each row as the kernels read it."""
        event_BL, evidence_BLV = history_weights.evidence(
            profiles.item_BH, profiles.weight_BH, self._decay_V, SOURCE_HISTORY_LENGTH
        )
        evidence_BLV[evidence_BLV <= _MIN_EVIDENCE] = 0
        masks = [self.shard.select_rows(self.catalogue.mask(condition)) for condition in requests.filters]
        passes = [masks[f] if f >= 0 else NO_FILTER for f in requests.filter_B]
        unrequested_BX = np.concatenate([profiles.seen_item_BH, requests.excluded_BX], axis=1)
        unwanted = [self.shard.to_local(items[items >= 0]) for items in unrequested_BX]
        vector_item_BR = np.full((len(requests), 0), PAD, np.int32)
        vector_score_BR = vector_score_BN = np.zeros((len(requests), 0), np.float32)
        if self.vectors.exact:
            vector_score_BN = self.vectors.score_all(profiles.user_vector_BD)
        else:
            vector_item_BR, vector_score_BR = self.vectors.search(profiles.user_vector_BD, unwanted, passes, self.depth)
            vector_item_BR[profiles.cold_B] = PAD
        requested_B = np.minimum(requests.n_B, len(self.catalogue)).tolist()
        for row, n_requested in enumerate(requested_B):
            given_G = requests.given_BG[row]
            yield RetrievalRequest(
                unwanted_X=unwanted[row],
                passes_N=passes[row],
                event_L=event_BL[row],
                evidence_LV=evidence_BLV[row],
                vector_item_R=vector_item_BR[row],
                vector_score_R=vector_score_BR[row],
                vector_score_N=vector_score_BN[row][:0] if profiles.cold_B[row] else vector_score_BN[row],
                given_G=self.shard.to_local(given_G[given_G >= 0]),
                n_requested=n_requested,
            )

    def vector_scores(self, profiles: ProfileBatch, item_BK: Ints) -> Floats:
        """The vector source's scores [B, K] of the items; 0 for cold users."""
        score_BK = self.vectors.score(profiles.user_vector_BD, item_BK)
        score_BK[profiles.cold_B] = 0
        return score_BK

    def empty_lists(self) -> Lists:
        """Arrays for the sources' lists of one request."""
        shape = (len(self.names), max(self.depth, int(self.sources.depth_S.max())))
        return Lists(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape[0], np.int32))

    def workspace(self) -> Workspace:
        """This thread's scratch memory."""
        if not hasattr(self._scratch, "work"):
            self._scratch.work = workspace(len(self.sources.view_V), len(self.sources.ids_TNW), self.n_items)
        work: Workspace = self._scratch.work
        return work

    def empty_request(self) -> RetrievalRequest:
        """A request without events or filter: calling a kernel with it compiles the kernel."""
        none, scores = np.zeros(0, np.int32), np.zeros(0, np.float32)
        evidence_LV = np.zeros((0, len(self.sources.view_V)), np.float32)
        return RetrievalRequest(none, NO_FILTER, none, evidence_LV, none, scores, scores, none, n_requested=0)


def candidate_counts(requests: RequestBatch, n_candidates: int, n_items: int) -> Array:
    """Most candidates of each request. int [B]."""
    given_B = (requests.given_BG >= 0).sum(axis=1)
    return np.where(given_B > 0, given_B, np.minimum(np.maximum(n_candidates, requests.n_B), n_items))


def score_scaling(sources: Sources, lists: Lists, depth: int) -> tuple[Floats, Floats]:
    """Offset [S] and scale [S] that bring each source's scores of one request to about 0..1.

    Neighbours: divided by the mean of the SCALE_DEPTH best. Vectors: from the last of the list (of `depth`) to the
    first. Popularity and history: unchanged.
    """
    offset_S, scale_S = np.zeros(len(sources.quota_S), np.float32), np.ones(len(sources.quota_S), np.float32)
    for source in sources.neighbours_X:
        head = lists.score_SR[source, : min(int(lists.count_S[source]), SCALE_DEPTH)]
        scale_S[source] = max(head.sum() / min(SCALE_DEPTH, depth), 1e-6)
    source = sources.vectors
    if count := int(lists.count_S[source]):
        offset_S[source] = lists.score_SR[source, count - 1]
    scale_S[source] = max(lists.score_SR[source, 0] - offset_S[source] if count else 0.0, _MIN_SPAN)
    return offset_S, scale_S


def _identity(n_items: int) -> tuple[Ints, Floats]:
    """The table of the history source: each item is its own neighbour, so a user's items collect their own evidence."""
    ids_N1, weights_N1 = np.arange(n_items, dtype=np.int32)[:, None], np.ones((n_items, 1), np.float32)
    for array in (ids_N1, weights_N1):
        array.setflags(write=False)
    return ids_N1, weights_N1


def _shard_table(ids_NW: Ints, weights_NW: Floats, shard: Shard) -> tuple[Ints, Floats]:
    """A neighbour table [items of the catalogue, W] with the shard's neighbours alone, in their order."""
    if shard.count == 1:
        return ids_NW, weights_NW
    own_NW = (ids_NW >= 0) & (ids_NW % shard.count == shard.index)
    count_N = own_NW.sum(axis=1)
    ids = np.full((len(ids_NW), int(count_N.max(initial=1))), PAD, np.int32)
    weights = np.zeros(ids.shape, np.float32)
    row, column = np.nonzero(own_NW)
    slot = np.arange(len(row)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
    ids[row, slot] = ids_NW[row, column] // shard.count
    weights[row, slot] = weights_NW[row, column]
    for array in (ids, weights):
        array.setflags(write=False)
    return ids, weights
