"""The retrieval sources over the catalogue, or over a part of it, ready for the compiled inner loop.

Shapes: B requests, L events read, N items of the part, S sources, V views (neighbour sources), R places in a list.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np

from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from deployments.artifact.sources import READ, SourceSpec, popularity
from deployments.messages import PAD, Array, Bools, Floats, Ints, ProfileBatch, RequestBatch
from deployments.models.features import history_weights
from deployments.retrieval.kernels import HEAD, Lists, RetrievalRequest, Sources, Workspace, workspace
from deployments.retrieval.vector_index import WHOLE, Part, Vectors

DEPTH = 150
"""Length R of each source's list."""

_LEAST = 1e-4
"""Evidence of an event that is too old to count."""

_LEAST_SPAN = 1e-3
"""Least difference between the first and the last of the vectors' list to scale by: not the rounding of one item."""

EVERYTHING: Bools = np.zeros(0, np.bool_)
"""As a filter: no item is left out."""
EVERYTHING.setflags(write=False)  # as the catalogue's masks are: one type, compiled once


class Retriever:
    """What the sources of `part` read, and requests as the inner loop takes them. Items are positions in the part."""

    def __init__(self, artifact: Artifact, part: Part = WHOLE) -> None:
        self.part = part
        self.catalogue = Catalogue.load(artifact)
        n_items = len(self.catalogue)
        self.n_items = part.size(n_items)
        specs = [SourceSpec.model_validate(spec) for spec in artifact.manifest.settings["sources"]]
        self.names = tuple(spec.name for spec in specs)
        views = [spec for spec in specs if spec.kind == "neighbours"]
        self.tables = list(dict.fromkeys(view.table for view in views))
        views.sort(key=lambda view: (self.tables.index(view.table), -view.decay))
        self._decay_V = np.array([view.decay for view in views], np.float32)
        self.vectors = Vectors(artifact, part)
        self.popularity_N = part.rows(popularity(artifact))
        self.depth = min(DEPTH, n_items)
        tensors = artifact.tensors("neighbours.safetensors")
        near = [_own(tensors[f"{name}_ids_NK"], tensors[f"{name}_weights_NK"], part) for name in self.tables]
        kinds = [spec.kind for spec in specs]
        self.sources = Sources(
            quota_S=np.array([spec.quota for spec in specs], np.int32),
            depth_S=np.array([self.depth if s.kind == "vectors" else max(s.quota, HEAD) for s in specs], np.int32),
            view_V=np.array([specs.index(view) for view in views], np.int32),
            first_T=np.searchsorted(
                [self.tables.index(view.table) for view in views], range(len(self.tables) + 1)
            ).astype(np.int32),
            ids_TNW=tuple(ids for ids, _ in near),
            weights_TNW=tuple(weights for _, weights in near),
            order_N=np.argsort(-self.popularity_N, kind="stable").astype(np.int32),
            popular=kinds.index("popularity"),
            vectors=kinds.index("vectors"),
        )
        self._scratch = threading.local()

    def requests(self, requests: RequestBatch, profiles: ProfileBatch) -> Iterator[RetrievalRequest]:
        """The rows as the inner loop takes them."""
        event_BL, evidence_BLV = history_weights.evidence(profiles.item_BH, profiles.weight_BH, self._decay_V, READ)
        evidence_BLV[evidence_BLV <= _LEAST] = 0
        masks = [self.part.rows(self.catalogue.mask(condition)) for condition in requests.filters]
        passes = [masks[f] if f >= 0 else EVERYTHING for f in requests.filter_B]
        unwanted_BX = np.concatenate([profiles.item_BH, requests.excluded_BX], axis=1)
        unwanted = [self.part.local(items[items >= 0]) for items in unwanted_BX]
        near_BR = np.full((len(requests), 0), PAD, np.int32)
        near_score_BR = near_BN = np.zeros((len(requests), 0), np.float32)
        if self.vectors.exact:
            near_BN = self.vectors.all(profiles.user_vector_BD)
        else:
            near_BR, near_score_BR = self.vectors.search(profiles.user_vector_BD, unwanted, passes, self.depth)
            near_BR[profiles.cold_B] = PAD
        wanted_B = np.minimum(requests.n_B, len(self.catalogue)).tolist()
        for row, wanted in enumerate(wanted_B):
            given_G = requests.given_BG[row]
            yield RetrievalRequest(
                unwanted_X=unwanted[row],
                passes_N=passes[row],
                event_L=event_BL[row],
                evidence_LV=evidence_BLV[row],
                near_R=near_BR[row],
                near_score_R=near_score_BR[row],
                near_N=near_BN[row][:0] if profiles.cold_B[row] else near_BN[row],
                given_G=self.part.local(given_G[given_G >= 0]),
                wanted=wanted,
            )

    def near(self, profiles: ProfileBatch, item_BK: Ints) -> Floats:
        """The vectors' score [B, K] of the given items; 0 for cold users."""
        near_BK = self.vectors.at(profiles.user_vector_BD, item_BK)
        near_BK[profiles.cold_B] = 0
        return near_BK

    def empty_lists(self) -> Lists:
        """Room for what the sources say to one request."""
        shape = (len(self.names), max(self.depth, int(self.sources.depth_S.max())))
        return Lists(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape[0], np.int32))

    def workspace(self) -> Workspace:
        """This thread's scratch memory."""
        if not hasattr(self._scratch, "work"):
            self._scratch.work = workspace(len(self.sources.view_V), len(self.tables), self.n_items)
        work: Workspace = self._scratch.work
        return work

    def no_request(self) -> RetrievalRequest:
        """One that asks for nothing, to compile with."""
        none, scores = np.zeros(0, np.int32), np.zeros(0, np.float32)
        evidence_LV = np.zeros((0, len(self.sources.view_V)), np.float32)
        return RetrievalRequest(none, EVERYTHING, none, evidence_LV, none, scores, scores, none, wanted=0)


def widths(requests: RequestBatch, n_candidates: int, n_items: int) -> Array:
    """Candidates that each request gets at most. int [B]."""
    given_B = (requests.given_BG >= 0).sum(axis=1)
    return np.where(given_B > 0, given_B, np.minimum(np.maximum(n_candidates, requests.n_B), n_items))


def scaling(sources: Sources, lists: Lists, depth: int) -> tuple[Floats, Floats]:
    """How each source's scores of one request are brought to about 0..1, offset [S] and scale [S]: neighbours by the
    mean of their best few, vectors from the last of the list (of `depth`) to the first, popularity as it is."""
    offset_S, scale_S = np.zeros(len(sources.quota_S), np.float32), np.ones(len(sources.quota_S), np.float32)
    for source in sources.view_V:
        head = lists.score_SR[source, : min(int(lists.count_S[source]), HEAD)]
        scale_S[source] = max(head.sum() / min(HEAD, depth), 1e-6)
    source = sources.vectors
    if count := int(lists.count_S[source]):
        offset_S[source] = lists.score_SR[source, count - 1]
    scale_S[source] = max(lists.score_SR[source, 0] - offset_S[source] if count else 0.0, _LEAST_SPAN)
    return offset_S, scale_S


def _own(ids_NW: Ints, weights_NW: Floats, part: Part) -> tuple[Ints, Floats]:
    """A neighbour table [rows of the catalogue, W] with the part's neighbours alone, in their order."""
    if part.of == 1:
        return ids_NW, weights_NW
    own_NW = (ids_NW >= 0) & (ids_NW % part.of == part.number)
    count_N = own_NW.sum(axis=1)
    ids = np.full((len(ids_NW), int(count_N.max(initial=1))), PAD, np.int32)
    weights = np.zeros(ids.shape, np.float32)
    row, column = np.nonzero(own_NW)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
    ids[row, place] = ids_NW[row, column] // part.of
    weights[row, place] = weights_NW[row, column]
    for array in (ids, weights):
        array.setflags(write=False)
    return ids, weights
