"""The kernels of retrieval, compiled by Numba: one request's proposals from all sources.

They read the neighbours of the events and the listed items, but not the whole catalogue (except the vector scores of
an exact index, for small catalogues). So their time does not grow with the catalogue. They run without the interpreter
lock.

Over 300 lines: the functions call each other, and Numba's cache detects changes in the caller's own file alone.

Shapes: L events read, T neighbour tables, V views (a table at a decay), N items, W neighbours per item, S sources,
R ranks in a source's list, K candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from deployments.messages import Array, Bools, Floats, Ints

SCALE_DEPTH = 10
"""A neighbour source's scores are divided by the mean of so many best ones."""


class Workspace(NamedTuple):
    """Scratch memory of one thread, reused by every request. A mark is valid if it equals the current stamp."""

    stamp_1: Array
    """The current stamp; each request has its own."""
    score_NV: Floats
    """Each view's score of every item; all 0 between requests."""
    touched_TN: Ints
    """Stamp: the table touched the item."""
    blocked_N: Ints
    """Stamp: the item must not be proposed."""
    proposed_N: Ints
    """Stamp: the item is among the proposals."""
    slot_N: Ints
    """The item's position among the proposals."""


def workspace(n_views: int, n_tables: int, n_items: int) -> Workspace:
    """New scratch memory: 4 · (V + T + 3) bytes per item."""
    flags = [np.zeros(n_items, np.int32) for _ in range(3)]
    touched_TN = np.zeros((n_tables, n_items), np.int32)
    return Workspace(np.zeros(1, np.int32), np.zeros((n_items, n_views), np.float32), touched_TN, *flags)


class Sources(NamedTuple):
    """The sources as arrays. `quota_S`: items of a list that become proposals; `depth_S`: length of a list."""

    quota_S: Ints
    depth_S: Ints
    view_V: Ints
    """The source of each view; the views of one table are consecutive. The history source is a view of the table in
    which the one neighbour of an item is the item itself."""
    first_T: Ints
    """[T + 1]: the views of table t are first[t] to first[t + 1]."""
    ids_TNW: tuple[Ints, ...]
    weights_TNW: tuple[Floats, ...]
    order_N: Ints
    """All items, the most popular first."""
    popular: int
    """Index of the popularity source."""
    vectors: int
    """Index of the vector source."""
    neighbours_X: Ints
    """Indices of the neighbour sources, whose scores are scaled per request."""


class RetrievalRequest(NamedTuple):
    """One request, as the kernels read it."""

    unwanted_X: Ints
    """Items that must not be proposed."""
    passes_N: Bools
    """Items that pass the filter; empty: all do."""
    event_L: Ints
    """The events read, -1 padded."""
    evidence_LV: Floats
    """The weight of each event in each view."""
    vector_item_R: Ints
    """Items found by the vector index, best first, -1 padded; blocked items may be among them."""
    vector_score_R: Floats
    vector_score_N: Floats
    """Every item's vector score, used instead of the index's results if not empty. Empty for cold users."""
    given_G: Ints
    """The caller's own items: if there are any, they are the proposals."""
    n_requested: int
    """With fewer proposals than this, popular items are added."""


class Lists(NamedTuple):
    """The sources' lists for one request: `count_S` items each, best first, with their raw scores."""

    item_SR: Ints
    score_SR: Floats
    count_S: Ints


@njit(cache=True, nogil=True)
def propose(
    work: Workspace,
    sources: Sources,
    request: RetrievalRequest,
    lists: Lists,
    item_K: Ints,
    source_K: Array,
    raw_KV: Floats,
) -> None:
    """Fills in `lists` and the proposals (up to K), with the source and every view's score of each."""
    touched = collect_lists(work, sources, request, lists)
    size = merge_by_quota(work, lists, sources, request, item_K, source_K)
    for k in range(size):
        for view in range(raw_KV.shape[1]):  # faster than as a slice: there are few views
            raw_KV[k, view] = work.score_NV[item_K[k], view]
    clear(work, touched)


@njit(cache=True, nogil=True)
def collect_lists(work: Workspace, sources: Sources, request: RetrievalRequest, lists: Lists) -> list[Ints]:
    """Fills in `lists`; returns, for `clear`, the items whose scores remain in `work`."""
    start_request(work, request.unwanted_X)
    passes_N = request.passes_N
    touched = []
    for table in range(len(sources.ids_TNW)):
        ids_NW, weights_NW = sources.ids_TNW[table], sources.weights_TNW[table]
        first, end = sources.first_T[table], sources.first_T[table + 1]
        found = accumulate(work, table, first, end, request.event_L, request.evidence_LV, ids_NW, weights_NW)
        touched.append(found)
        for view in range(first, end):
            s = sources.view_V[view]
            item_R, score_R, depth = lists.item_SR[s], lists.score_SR[s], sources.depth_S[s]
            lists.count_S[s] = top_items(work, work.score_NV[:, view], 0.0, found, passes_N, depth, item_R, score_R)
    s = sources.popular
    lists.count_S[s] = first_allowed(work, sources.order_N, passes_N, sources.depth_S[s], lists.item_SR[s])
    s = sources.vectors
    item_R, score_R, depth = lists.item_SR[s], lists.score_SR[s], sources.depth_S[s]
    if request.vector_score_N.size:
        lists.count_S[s] = top_items(
            work, request.vector_score_N, -np.inf, sources.order_N, passes_N, depth, item_R, score_R
        )
    else:
        lists.count_S[s] = allowed_results(
            work, request.vector_item_R, request.vector_score_R, passes_N, depth, item_R, score_R
        )
    return touched


@njit(cache=True, nogil=True)
def clear(work: Workspace, touched: list[Ints]) -> None:
    """Sets the scores back to 0 for the next request."""
    for found in touched:
        for item in found:
            for view in range(work.score_NV.shape[1]):
                work.score_NV[item, view] = 0


@njit(cache=True, nogil=True)
def start_request(work: Workspace, unwanted_X: Ints) -> None:
    """Starts a request with a new stamp and marks the unwanted items as blocked."""
    work.stamp_1[0] += 1
    for item in unwanted_X:
        work.blocked_N[item] = work.stamp_1[0]


@njit(cache=True, nogil=True)
def accumulate(
    work: Workspace,
    table: int,
    first: int,
    end: int,
    event_L: Ints,
    evidence_LV: Floats,
    ids_NW: Ints,
    weights_NW: Floats,
) -> Ints:
    """Adds evidence · weight of every event's neighbours, for the views `first` to `end` of one table; returns the
    items touched."""
    stamp = work.stamp_1[0]
    touched_N, score_NV = work.touched_TN[table], work.score_NV
    found = np.empty(event_L.size * ids_NW.shape[1], np.int32)
    count = 0
    for age in range(event_L.size):
        event = event_L[age]
        last = end
        while last > first and evidence_LV[age, last - 1] == 0:
            last -= 1
        if event < 0 or last == first:
            continue
        evidence = evidence_LV[age, first]
        for neighbour in range(ids_NW.shape[1]):
            item = ids_NW[event, neighbour]
            if item < 0:
                continue
            if touched_N[item] != stamp:
                touched_N[item] = stamp
                found[count] = item
                count += 1
            score_NV[item, first] += evidence * weights_NW[event, neighbour]
        for view in range(first + 1, last):  # a loop of its own is faster than one over the views inside
            evidence = evidence_LV[age, view]
            for neighbour in range(ids_NW.shape[1]):
                item = ids_NW[event, neighbour]
                if item >= 0:
                    score_NV[item, view] += evidence * weights_NW[event, neighbour]
    return found[:count]


@njit(cache=True, nogil=True)
def _worse(score: float, item: int, other_score: float, other_item: int) -> bool:
    """Whether the first has the lower score; on a tie, the higher position."""
    return score < other_score or (score == other_score and item > other_item)


@njit(cache=True, nogil=True)
def _sift_down(item_R: Ints, score_R: Floats, at: int, size: int) -> None:
    """Restores the heap, worst item at the root, below `at`."""
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _worse(score_R[child + 1], item_R[child + 1], score_R[child], item_R[child]):
            child += 1
        if not _worse(score_R[child], item_R[child], score_R[at], item_R[at]):
            return
        score_R[at], score_R[child] = score_R[child], score_R[at]
        item_R[at], item_R[child] = item_R[child], item_R[at]
        at = child


@njit(cache=True, nogil=True)
def top_items(
    work: Workspace,
    score_N: Floats,
    lowest: float,
    found: Ints,
    passes_N: Bools,
    depth: int,
    item_R: Ints,
    score_R: Floats,
) -> int:
    """The `depth` best items of `found` that score parent `lowest` and are neither blocked nor filtered out.

    Ties are in order of position. Fills item_R and score_R, best first, and returns their number.
    """
    stamp, size = work.stamp_1[0], 0
    for item in found:
        score = score_N[item]
        if score <= lowest or work.blocked_N[item] == stamp or (passes_N.size and not passes_N[item]):
            continue
        if size < depth:
            at = size
            size += 1
            item_R[at], score_R[at] = item, score
            while at and _worse(score_R[at], item_R[at], score_R[(at - 1) // 2], item_R[(at - 1) // 2]):
                parent = (at - 1) // 2
                score_R[at], score_R[parent] = score_R[parent], score_R[at]
                item_R[at], item_R[parent] = item_R[parent], item_R[at]
                at = parent
        elif _worse(score_R[0], item_R[0], score, item):
            item_R[0], score_R[0] = item, score
            _sift_down(item_R, score_R, 0, size)
    for end in range(size - 1, 0, -1):  # heap sort: the worst goes to the end
        score_R[0], score_R[end] = score_R[end], score_R[0]
        item_R[0], item_R[end] = item_R[end], item_R[0]
        _sift_down(item_R, score_R, 0, end)
    return size


@njit(cache=True, nogil=True)
def first_allowed(work: Workspace, order_N: Ints, passes_N: Bools, depth: int, item_R: Ints) -> int:
    """Fills item_R with the first `depth` items of `order_N` that are allowed; returns their number."""
    stamp, size = work.stamp_1[0], 0
    for item in order_N:
        if size == depth:
            break
        if work.blocked_N[item] != stamp and (not passes_N.size or passes_N[item]):
            item_R[size] = item
            size += 1
    return size


@njit(cache=True, nogil=True)
def allowed_results(
    work: Workspace,
    vector_item_R: Ints,
    vector_score_R: Floats,
    passes_N: Bools,
    depth: int,
    item_R: Ints,
    score_R: Floats,
) -> int:
    """Fills in the first `depth` results of the vector index that are allowed; returns their number."""
    size = 0
    for rank in range(vector_item_R.size):
        item = vector_item_R[rank]
        if size == depth:
            break
        if item >= 0 and work.blocked_N[item] != work.stamp_1[0] and (not passes_N.size or passes_N[item]):
            item_R[size], score_R[size] = item, vector_score_R[rank]
            size += 1
    return size


@njit(cache=True, nogil=True)
def merge_by_quota(
    work: Workspace, lists: Lists, sources: Sources, request: RetrievalRequest, item_K: Ints, source_K: Array
) -> int:
    """Interleaves the lists by quota; fills item_K and source_K, and returns the number of proposals (at most K).

    Rank p (from 0) of a source with quota q has the key 100 p / q; proposals are in order of their lowest key, and its
    source is theirs. With fewer proposals than requested, the other allowed items follow by popularity.
    """
    stamp, width, quota_S, passes_N = work.stamp_1[0], item_K.size, sources.quota_S, request.passes_N
    item_P = np.empty(quota_S.sum(), np.int32)
    key_P = np.empty(item_P.size, np.float32)
    source_P = np.empty(item_P.size, np.int8)
    count = 0
    for source in range(quota_S.size):
        step = 100.0 / quota_S[source]
        for rank in range(min(lists.count_S[source], quota_S[source])):
            item = lists.item_SR[source, rank]
            key = np.float32(rank * step + 0.001 * source)
            if work.proposed_N[item] != stamp:
                work.proposed_N[item] = stamp
                work.slot_N[item] = count
                item_P[count], key_P[count], source_P[count] = item, key, source
                count += 1
            elif key < key_P[work.slot_N[item]]:
                at = work.slot_N[item]
                key_P[at], source_P[at] = key, source
    if request.given_G.size:
        for k in range(request.given_G.size):
            item = request.given_G[k]
            item_K[k] = item
            source_K[k] = source_P[work.slot_N[item]] if work.proposed_N[item] == stamp else sources.popular
        return int(request.given_G.size)
    size = 0
    for at in np.argsort(key_P[:count], kind="mergesort"):
        if size == width:
            break
        item_K[size], source_K[size] = item_P[at], source_P[at]
        size += 1
    if count < request.n_requested:
        for item in sources.order_N:
            if size == width:
                break
            if (
                work.proposed_N[item] != stamp
                and work.blocked_N[item] != stamp
                and (not passes_N.size or passes_N[item])
            ):
                item_K[size], source_K[size] = item, sources.popular
                size += 1
    return size
