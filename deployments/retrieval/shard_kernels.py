"""The compiled loops of sharded candidates: what one part says to a request, and how the parts' answers are merged.

Shapes: N items, U items in an answer (of one part, or of all), P parts, S sources, V views, R places in a source's
list, K candidates.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from deployments.messages import Array, Floats, Ints
from deployments.retrieval.kernels import Lists, RetrievalRequest, Sources, Workspace, block, clear, collect, merge


@njit(cache=True, nogil=True)
def answer_part(
    work: Workspace,
    sources: Sources,
    request: RetrievalRequest,
    lists: Lists,
    width: int,
    item_U: Ints,
    raw_UV: Floats,
    place_SR: Array,
) -> int:
    """Fills in the items that the part's lists name, every view's score of each, and each list as positions in U;
    returns how many items there are. An answer too short for `wanted` is filled up to `width` by popularity: the merged
    one may be too.
    """
    touched = collect(work, sources, request, lists)
    stamp, size = work.stamp_1[0], 0
    for item in request.given_G:
        size = _add(work, item, item_U, size)
    quota_S, count_S = sources.quota_S, lists.count_S
    for s in range(quota_S.size):
        for r in range(min(count_S[s], quota_S[s])):
            size = _add(work, lists.item_SR[s, r], item_U, size)
    if size < request.wanted:
        filled = 0
        for item in sources.order_N:
            if filled == width:
                break
            if work.blocked_N[item] != stamp and (not request.passes_N.size or request.passes_N[item]):
                size = _add(work, item, item_U, size)
                filled += 1
    for s in range(quota_S.size):
        for r in range(count_S[s]):
            size = _add(work, lists.item_SR[s, r], item_U, size)
            place_SR[s, r] = work.slot_N[lists.item_SR[s, r]]
    for u in range(size):
        raw_UV[u] = work.acc_NV[item_U[u]]
    clear(work, touched)
    return size


@njit(cache=True, nogil=True)
def _add(work: Workspace, item: int, item_U: Ints, size: int) -> int:
    """Puts `item` into U unless it is there; returns the size of U."""
    if work.proposed_N[item] == work.stamp_1[0]:
        return size
    work.proposed_N[item] = work.stamp_1[0]
    work.slot_N[item] = size
    item_U[size] = item
    return size + 1


@njit(cache=True, nogil=True)
def gather(
    work: Workspace,
    sources: Sources,
    request: RetrievalRequest,
    item_U: Ints,
    raw_US: Floats,
    list_PSR: Ints,
    lists: Lists,
    item_K: Ints,
    source_K: Array,
    raw_KS: Floats,
) -> None:
    """Fills in the proposals, with the source and every source's score of each, from what all parts say. `work` holds a
    score per source; of `request` only unwanted_X, passes_N, given_G and wanted count."""
    block(work, request.unwanted_X)
    for u in range(item_U.size):
        if item_U[u] >= 0:
            work.acc_NV[item_U[u]] = raw_US[u]
    at_P = np.zeros(list_PSR.shape[0], np.int32)
    for s in range(list_PSR.shape[1]):
        at_P[:] = 0
        count = 0
        while count < sources.depth_S[s]:  # the best of the parts' next ones; ties by position, as in one list
            chosen, chosen_u = -1, -1
            for p in range(at_P.size):
                if at_P[p] == list_PSR.shape[2] or list_PSR[p, s, at_P[p]] < 0:
                    continue
                u = list_PSR[p, s, at_P[p]]
                if (
                    chosen < 0
                    or raw_US[u, s] > raw_US[chosen_u, s]
                    or (raw_US[u, s] == raw_US[chosen_u, s] and item_U[u] < item_U[chosen_u])
                ):
                    chosen, chosen_u = p, u
            if chosen < 0:
                break
            lists.item_SR[s, count], lists.score_SR[s, count] = item_U[chosen_u], raw_US[chosen_u, s]
            at_P[chosen] += 1
            count += 1
        lists.count_S[s] = count
    size = merge(work, lists, sources, request, item_K, source_K)
    for k in range(size):
        raw_KS[k] = work.acc_NV[item_K[k]]
    for u in range(item_U.size):
        if item_U[u] >= 0:
            work.acc_NV[item_U[u]] = 0
