"""The kernels of sharded retrieval: one shard's answer to a request, and the merge of all shards' answers.

They call functions of kernels.py. Numba's cache does not detect changes there: delete `__pycache__/shard_kernels.*`
after one.

Shapes: N items, U items in an answer (of one shard, or of all), P shards, S sources, V views, R ranks in a source's
list, K candidates.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from deployments.messages import Array, Floats, Ints
from deployments.retrieval.kernels import (
    Lists,
    RetrievalRequest,
    Sources,
    Workspace,
    clear,
    collect_lists,
    merge_by_quota,
    start_request,
)


@njit(cache=True, nogil=True)
def collect_shard(
    work: Workspace,
    sources: Sources,
    request: RetrievalRequest,
    lists: Lists,
    width: int,
    item_U: Ints,
    raw_UV: Floats,
    slot_SR: Array,
) -> int:
    """Fills in the items of the shard's lists, every view's score of each, and each list as positions in U; returns
    the number of items.

    Fewer items than `n_requested`: adds up to `width` allowed items by popularity, as the merged answer may need them.
    """
    touched = collect_lists(work, sources, request, lists)
    stamp, size = work.stamp_1[0], 0
    for item in request.given_G:
        size = _add(work, item, item_U, size)
    quota_S, count_S = sources.quota_S, lists.count_S
    for s in range(quota_S.size):
        for r in range(min(count_S[s], quota_S[s])):
            size = _add(work, lists.item_SR[s, r], item_U, size)
    if size < request.n_requested:
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
            slot_SR[s, r] = work.slot_N[lists.item_SR[s, r]]
    for u in range(size):
        raw_UV[u] = work.score_NV[item_U[u]]
    clear(work, touched)
    return size


@njit(cache=True, nogil=True)
def _add(work: Workspace, item: int, item_U: Ints, size: int) -> int:
    """Adds `item` to U unless U contains it; returns the size of U."""
    if work.proposed_N[item] == work.stamp_1[0]:
        return size
    work.proposed_N[item] = work.stamp_1[0]
    work.slot_N[item] = size
    item_U[size] = item
    return size + 1


@njit(cache=True, nogil=True)
def merge_shards(
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
    """Merges the answers of the shards: fills in the proposals, the source of each, and every source's score of each.

    `work` has one score per source. Of `request` only unwanted_X, passes_N, given_G and n_requested are read.
    """
    start_request(work, request.unwanted_X)
    for u in range(item_U.size):
        if item_U[u] >= 0:
            work.score_NV[item_U[u]] = raw_US[u]
    head_P = np.zeros(list_PSR.shape[0], np.int32)
    for s in range(list_PSR.shape[1]):
        head_P[:] = 0
        count = 0
        while count < sources.depth_S[s]:  # the best head of the shards' lists; ties by position, as in one list
            best_p, best_u = -1, -1
            for p in range(head_P.size):
                if head_P[p] == list_PSR.shape[2] or list_PSR[p, s, head_P[p]] < 0:
                    continue
                u = list_PSR[p, s, head_P[p]]
                if (
                    best_p < 0
                    or raw_US[u, s] > raw_US[best_u, s]
                    or (raw_US[u, s] == raw_US[best_u, s] and item_U[u] < item_U[best_u])
                ):
                    best_p, best_u = p, u
            if best_p < 0:
                break
            lists.item_SR[s, count], lists.score_SR[s, count] = item_U[best_u], raw_US[best_u, s]
            head_P[best_p] += 1
            count += 1
        lists.count_S[s] = count
    size = merge_by_quota(work, lists, sources, request, item_K, source_K)
    for k in range(size):
        raw_KS[k] = work.score_NV[item_K[k]]
    for u in range(item_U.size):
        if item_U[u] >= 0:
            work.score_NV[item_U[u]] = 0
