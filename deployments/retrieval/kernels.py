"""The candidate stage's inner loop, compiled by Numba: one request's proposals from all its sources.

It touches the neighbours of the events it reads and the items it proposes, never the whole catalogue, so its time does
not grow with it. It holds no interpreter lock. (Over 300 lines: one loop, whose parts share their memory.)

Shapes: L events read, T neighbour tables, V views (a table at a decay), N items, W neighbours per item, S sources,
R places in a source's list, K candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from deployments.messages import Array, Bools, Floats, Ints

HEAD = 10
"""A neighbour source's scores are scaled by the mean of its best few."""


class Workspace(NamedTuple):
    """Scratch memory of one thread, used for request after request. What is marked with the present stamp counts."""

    stamp_1: Array
    """The stamp now; one per request."""
    acc_NV: Floats
    """Score of every item a view touched; all 0 between requests."""
    touched_TN: Ints
    """Stamp: the table touched the item."""
    blocked_N: Ints
    """Stamp: the item must not be proposed."""
    proposed_N: Ints
    """Stamp: it is among the proposals …"""
    slot_N: Ints
    """… at this place."""


def workspace(n_views: int, n_tables: int, n_items: int) -> Workspace:
    """Fresh memory: 4 · (V + T + 3) bytes per item."""
    flags = [np.zeros(n_items, np.int32) for _ in range(3)]
    touched_TN = np.zeros((n_tables, n_items), np.int32)
    return Workspace(np.zeros(1, np.int32), np.zeros((n_items, n_views), np.float32), touched_TN, *flags)


class Sources(NamedTuple):
    """The sources as arrays. `quota_S`, `depth_S`: items that count for the proposals, that are listed."""

    quota_S: Ints
    depth_S: Ints
    view_V: Ints
    """The source that each view is; the views of one table stand together."""
    first_T: Ints
    """[T + 1]: the views of table t are first[t] to first[t + 1]."""
    ids_TNW: tuple[Ints, ...]
    weights_TNW: tuple[Floats, ...]
    order_N: Ints
    """All items, the most popular first."""
    popular: int
    """The source that is popularity."""
    vectors: int
    """The source that is vectors."""


class RetrievalRequest(NamedTuple):
    """What one request asks of the sources."""

    unwanted_X: Ints
    """Items it must not get."""
    passes_N: Bools
    """Items that pass the filter; empty: all do."""
    event_L: Ints
    """The events read, -1 padded."""
    evidence_LV: Floats
    """How strongly each event speaks in each view."""
    near_R: Ints
    """What the vector index found, best first, -1 padded; blocked items may be among them."""
    near_score_R: Floats
    near_N: Floats
    """Instead of these: every item's score; empty for a user without a vector."""
    given_G: Ints
    """If any: the items to propose, as given, whatever the sources say."""
    wanted: int
    """Fewer proposals than this are filled up by popularity."""


class Lists(NamedTuple):
    """What the sources say to one request, best first: `count_S` items each, with their raw scores."""

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
    """Fills in `lists`, and as far as there are any the proposals, with the source and every view's score of each."""
    touched = collect(work, sources, request, lists)
    size = merge(work, lists, sources, request, item_K, source_K)
    for k in range(size):
        for view in range(raw_KV.shape[1]):  # faster than as a slice: there are few views
            raw_KV[k, view] = work.acc_NV[item_K[k], view]
    clear(work, touched)


@njit(cache=True, nogil=True)
def collect(work: Workspace, sources: Sources, request: RetrievalRequest, lists: Lists) -> list[Ints]:
    """Fills in `lists`; returns the items whose scores are left in `work`, for `clear`."""
    block(work, request.unwanted_X)
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
            lists.count_S[s] = best(work, work.acc_NV[:, view], 0.0, found, passes_N, depth, item_R, score_R)
    s = sources.popular
    lists.count_S[s] = walk(work, sources.order_N, passes_N, sources.depth_S[s], lists.item_SR[s])
    s = sources.vectors
    item_R, score_R, depth = lists.item_SR[s], lists.score_SR[s], sources.depth_S[s]
    if request.near_N.size:
        lists.count_S[s] = best(work, request.near_N, -np.inf, sources.order_N, passes_N, depth, item_R, score_R)
    else:
        lists.count_S[s] = keep(work, request.near_R, request.near_score_R, passes_N, depth, item_R, score_R)
    return touched


@njit(cache=True, nogil=True)
def clear(work: Workspace, touched: list[Ints]) -> None:
    """Leaves no scores behind for the next request."""
    for found in touched:
        for item in found:
            for view in range(work.acc_NV.shape[1]):
                work.acc_NV[item, view] = 0


@njit(cache=True, nogil=True)
def block(work: Workspace, unwanted_X: Ints) -> None:
    """Starts a request: marks what it must not get."""
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
    """Adds evidence · weight of every event's neighbours, for the views `first` to `end`, which are those of one table;
    returns the items touched."""
    stamp = work.stamp_1[0]
    touched_N, acc_NV = work.touched_TN[table], work.acc_NV
    found = np.empty(event_L.size * ids_NW.shape[1], np.int32)
    count = 0
    for place in range(event_L.size):
        event = event_L[place]
        last = end
        while last > first and evidence_LV[place, last - 1] == 0:
            last -= 1
        if event < 0 or last == first:
            continue
        evidence = evidence_LV[place, first]
        for neighbour in range(ids_NW.shape[1]):
            item = ids_NW[event, neighbour]
            if item < 0:
                continue
            if touched_N[item] != stamp:
                touched_N[item] = stamp
                found[count] = item
                count += 1
            acc_NV[item, first] += evidence * weights_NW[event, neighbour]
        for view in range(first + 1, last):  # a loop of its own is faster than one over the views inside
            evidence = evidence_LV[place, view]
            for neighbour in range(ids_NW.shape[1]):
                item = ids_NW[event, neighbour]
                if item >= 0:
                    acc_NV[item, view] += evidence * weights_NW[event, neighbour]
    return found[:count]


@njit(cache=True, nogil=True)
def _worse(score: float, item: int, other_score: float, other_item: int) -> bool:
    """Lower score; on a tie the later item."""
    return score < other_score or (score == other_score and item > other_item)


@njit(cache=True, nogil=True)
def _sink(item_R: Ints, score_R: Floats, at: int, size: int) -> None:
    """Restores the heap (worst at the root) below `at`."""
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
def best(
    work: Workspace,
    score_N: Floats,
    lowest: float,
    found: Ints,
    passes_N: Bools,
    depth: int,
    item_R: Ints,
    score_R: Floats,
) -> int:
    """The `depth` best items of `found` that score above `lowest`, are not blocked and pass (`passes_N` empty: all do);
    ties by position. Fills item_R and score_R, best first, and returns how many there are."""
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
                above = (at - 1) // 2
                score_R[at], score_R[above] = score_R[above], score_R[at]
                item_R[at], item_R[above] = item_R[above], item_R[at]
                at = above
        elif _worse(score_R[0], item_R[0], score, item):
            item_R[0], score_R[0] = item, score
            _sink(item_R, score_R, 0, size)
    for end in range(size - 1, 0, -1):  # heap sort: the worst goes to the end
        score_R[0], score_R[end] = score_R[end], score_R[0]
        item_R[0], item_R[end] = item_R[end], item_R[0]
        _sink(item_R, score_R, 0, end)
    return size


@njit(cache=True, nogil=True)
def walk(work: Workspace, order_N: Ints, passes_N: Bools, depth: int, item_R: Ints) -> int:
    """The first `depth` items of `order_N` that are neither blocked nor filtered out; returns how many there are."""
    stamp, size = work.stamp_1[0], 0
    for item in order_N:
        if size == depth:
            break
        if work.blocked_N[item] != stamp and (not passes_N.size or passes_N[item]):
            item_R[size] = item
            size += 1
    return size


@njit(cache=True, nogil=True)
def keep(
    work: Workspace, near_R: Ints, near_score_R: Floats, passes_N: Bools, depth: int, item_R: Ints, score_R: Floats
) -> int:
    """The first `depth` of what the index found that are neither blocked nor filtered out; returns how many."""
    size = 0
    for place in range(near_R.size):
        item = near_R[place]
        if size == depth:
            break
        if item >= 0 and work.blocked_N[item] != work.stamp_1[0] and (not passes_N.size or passes_N[item]):
            item_R[size], score_R[size] = item, near_score_R[place]
            size += 1
    return size


@njit(cache=True, nogil=True)
def merge(
    work: Workspace, lists: Lists, sources: Sources, request: RetrievalRequest, item_K: Ints, source_K: Array
) -> int:
    """Interleaves the lists by quota: place p of a source with quota q has the key 100 p / q, and the lowest key of an
    item names its source. Fewer proposals than wanted: all other allowed items follow by popularity. Fills item_K and
    source_K as far as they go, and returns how far that is.
    """
    stamp, width, quota_S, passes_N = work.stamp_1[0], item_K.size, sources.quota_S, request.passes_N
    item_P = np.empty(quota_S.sum(), np.int32)
    key_P = np.empty(item_P.size, np.float32)
    source_P = np.empty(item_P.size, np.int8)
    count = 0
    for source in range(quota_S.size):
        step = 100.0 / quota_S[source]
        for place in range(min(lists.count_S[source], quota_S[source])):
            item = lists.item_SR[source, place]
            key = np.float32(place * step + 0.001 * source)
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
    if count < request.wanted:
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
