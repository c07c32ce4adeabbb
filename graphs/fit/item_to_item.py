"""Item-to-item tables from the order of events. Each is a matrix W [N, N]: W[i, j] is the weight of item i in a history
for item j as the next one. A table keeps the strongest neighbours of each item only.

Shapes: N items, E events, C cuts (places in a history), M items with enough events, K neighbours.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from deployments.messages import Array, Floats, Ints
from deployments.models.features.history_weights import WEAK_EVIDENCE
from graphs.data.dataset import Interactions

NEIGHBOURS = 300
MOST_ITEMS = 10_000
"""Most frequent items that a dense linear model covers."""

Table = tuple[Ints, Floats]
"""ids [N, K] (-1 padded) and weights [N, K]."""


def sequence_ridge(events: Interactions, n_items: int) -> Table:
    """Ridge regression of the decayed future on the decayed past, over the cuts of all histories: directed EASE.

    With X [C, M] the past (decay 5 events, 60 at most) and Y [C, M] the successes to come (decay 30, 80 at most):
    W = (X'X + λI)⁻¹ X'Y, columns divided by (their mass)^0.2 to weaken popular items.
    """
    kept_M = _frequent(events, n_items, at_least=2)
    cut_C = np.flatnonzero(events.user_E[1:] == events.user_E[:-1])[::2] + 1
    strength_E = np.where(events.success_E, np.float32(1), np.float32(WEAK_EVIDENCE)) * (events.weight_E > 0)
    past = _window(events, cut_C, [-1 - k for k in range(60)], 5.0, strength_E, n_items)[:, kept_M]
    future = _window(events, cut_C, list(range(80)), 30.0, events.target_E.astype(np.float32), n_items)[:, kept_M]
    gram_MM = (past.T @ past).toarray()
    cross_MM = (past.T @ future).toarray()
    gram_MM[np.diag_indices_from(gram_MM)] += np.float32(300)
    factor = scipy.linalg.cho_factor(gram_MM, lower=True, overwrite_a=True, check_finite=False)
    weights_MM = scipy.linalg.cho_solve(factor, cross_MM, check_finite=False)
    weights_MM *= (cross_MM.sum(axis=0) + 5) ** np.float32(-0.2)
    return _strongest(weights_MM, kept_M, n_items)


def linear(events: Interactions, n_items: int) -> Table:
    """EASE (Steck 2019, https://arxiv.org/abs/1905.03375), λ = 400; events that are no success have the
    weight WEAK. With fewer users than items it is solved in the users' dimension (Woodbury)."""
    kept_M = _frequent(events, n_items, at_least=1)
    strength_E = np.where(events.success_E, np.float32(1), np.float32(WEAK_EVIDENCE)) * (events.weight_E > 0)
    shape = (int(events.user_E.max()) + 1, n_items)
    users_UM = sp.csr_matrix((strength_E, (events.user_E, events.item_E)), shape).tocsc()[:, kept_M]
    regularisation = 400.0
    if users_UM.shape[0] < len(kept_M):
        dense_UM = users_UM.toarray().astype(np.float32)
        kernel_UU = dense_UM @ dense_UM.T + regularisation * np.eye(len(dense_UM), dtype=np.float32)
        weights_MM = dense_UM.T @ np.linalg.solve(kernel_UU, dense_UM)
        weights_MM /= 1 - np.diag(weights_MM)
    else:
        gram_MM = (users_UM.T @ users_UM).toarray().astype(np.float32)
        gram_MM[np.diag_indices_from(gram_MM)] += regularisation
        inverse_MM = np.linalg.inv(gram_MM)
        weights_MM = -inverse_MM / np.diag(inverse_MM)
    np.fill_diagonal(weights_MM, 0)
    return _strongest(weights_MM.astype(np.float32, copy=False), kept_M, n_items)


def co_occurrence(events: Interactions, n_items: int) -> Table:
    """Counts of success j after i within 50 events, decaying with the distance. Events at the same time count in both
    directions. W is divided by (row mass + 5)^0.5 and (column mass + 5)^0.3."""
    counts = follows(events, n_items)
    row_N = np.asarray(counts.sum(axis=1)).ravel() + 5
    column_N = np.asarray(counts.sum(axis=0)).ravel() + 5
    weights = (sp.diags(row_N**-0.5) @ counts @ sp.diags(column_N**-0.3)).tocsr()
    ids_NK = np.full((n_items, NEIGHBOURS), -1, np.int32)
    weights_NK = np.zeros((n_items, NEIGHBOURS), np.float32)
    for item in range(n_items):
        span = slice(weights.indptr[item], weights.indptr[item + 1])
        found, value = weights.indices[span], weights.data[span]
        order = np.lexsort((found, -value))[:NEIGHBOURS]
        ids_NK[item, : len(order)], weights_NK[item, : len(order)] = found[order], value[order]
    return ids_NK, weights_NK


def follows(events: Interactions, n_items: int) -> sp.csr_matrix:
    """Decayed counts [N, N] of success j after event i of the same user."""
    strength_E = np.where(events.success_E, np.float32(1), np.float32(WEAK_EVIDENCE)) * (events.weight_E > 0)
    target_E = events.target_E.astype(np.float32)
    rows, columns, values = [], [], []
    for distance in range(1, 51):
        before, after = slice(None, -distance), slice(distance, None)
        same_user = events.user_E[before] == events.user_E[after]
        tied = same_user & (events.timestamp_E[before] == events.timestamp_E[after])
        decay = np.float32(np.exp(-(distance - 1) / 25))
        for source, target, share in ((before, after, np.where(tied, 0.5, same_user)), (after, before, tied * 0.5)):
            value = decay * share * strength_E[source] * target_E[target]
            some = value > 0
            rows.append(events.item_E[source][some])
            columns.append(events.item_E[target][some])
            values.append(value[some].astype(np.float32))
    indices = (np.concatenate(rows), np.concatenate(columns))
    counts = sp.csr_matrix((np.concatenate(values), indices), (n_items, n_items))
    counts.sum_duplicates()
    return counts


def _frequent(events: Interactions, n_items: int, at_least: int) -> Array:
    """The items that a dense model covers, ascending."""
    count_N = np.bincount(events.item_E, minlength=n_items)
    order = np.lexsort((np.arange(n_items), -count_N))[:MOST_ITEMS]
    return np.sort(order[count_N[order] >= at_least])


def _window(
    events: Interactions, cut_C: Array, offsets: list[int], decay: float, strength_E: Floats, n_items: int
) -> sp.csc_matrix:
    """[C, N]: for each cut the events at `offsets` from it, of the same user, decaying with the distance."""
    rows, columns, values = [], [], []
    for step, offset in enumerate(offsets):
        at = cut_C + offset
        inside = (at >= 0) & (at < len(events))
        inside[inside] &= events.user_E[at[inside]] == events.user_E[cut_C[inside]]
        row = np.flatnonzero(inside)
        value = strength_E[at[row]] * np.float32(np.exp(-step / decay))
        some = value > 0
        rows.append(row[some])
        columns.append(events.item_E[at[row[some]]])
        values.append(value[some])
    indices = (np.concatenate(rows), np.concatenate(columns))
    return sp.csr_matrix((np.concatenate(values), indices), (len(cut_C), n_items)).tocsc()


def _strongest(weights_MM: Floats, kept_M: Array, n_items: int) -> Table:
    """The K largest weights of each row by magnitude, as a table over all items."""
    width = min(NEIGHBOURS, len(kept_M))
    column_MK = np.argpartition(-np.abs(weights_MM), width - 1, axis=1)[:, :width]
    ids_NK = np.full((n_items, NEIGHBOURS), -1, np.int32)
    weights_NK = np.zeros((n_items, NEIGHBOURS), np.float32)
    ids_NK[kept_M, :width] = kept_M[column_MK]
    weights_NK[kept_M, :width] = np.take_along_axis(weights_MM, column_MK, axis=1)
    return ids_NK, weights_NK
