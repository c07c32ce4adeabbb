"""The kernels of the ranking features, compiled by Numba: a summary of each user's history, then one row per candidate.

They read only the candidates and the items of the histories, and run without the interpreter lock.

Shapes: B requests, H events of history, K candidates, R real candidates of all requests, D decays, C content values,
A item attributes, S sources, I columns of the item alone, W columns of the user alone, F features in all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from deployments.messages import Bools, Floats, Ints


class ItemFeatures(NamedTuple):
    """The items. `value_V[first_N[i]:first_N[i + 1]]` are the content values of item i."""

    first_N: Ints
    value_V: Ints
    attributes_NA: Floats
    columns_NI: Floats
    """The features of the item alone, standardised."""
    n_content: int


class HistorySummaries(NamedTuple):
    """Each user's history, summarised per decay."""

    liked_BDC: Floats
    """Mean content of successes."""
    contrast_BDC: Floats
    """Content of successes minus that of the other events."""
    mean_BDA: Floats
    """Mean attributes of all events."""
    columns_BW: Floats
    """The features of the user alone: per decay the mean attributes and the share of successes, then the others."""


class Standardisation(NamedTuple):
    """The model's input from a feature f: (f - mean) * scale, clipped to ± clip."""

    mean_F: Floats
    scale_F: Floats
    clip: float


@njit(cache=True, nogil=True)
def summarise_histories(
    items: ItemFeatures,
    item_BH: Ints,
    weight_BH: Floats,
    features_BX: Floats,
    decay_D: Floats,
    history_length: int,
    success: Any,
) -> HistorySummaries:
    """Summaries of the last `history_length` events, not standardised. An event of age a counts exp(-a / decay).

    `success`: the least weight of a successful event.
    """
    n_decays, n_attributes = len(decay_D), items.attributes_NA.shape[1]
    shape = (len(item_BH), n_decays, items.n_content)
    liked_BDC, contrast_BDC = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    mean_BDA = np.zeros((len(item_BH), n_decays, n_attributes), np.float32)
    width = n_decays * (n_attributes + 1)
    columns_BW = np.zeros((len(item_BH), width + 1 + features_BX.shape[1]), np.float32)
    for b in range(len(item_BH)):
        length = 0
        for item in item_BH[b]:
            length += item >= 0
        for d in range(n_decays):
            liked_C, contrast_C, mean_A = liked_BDC[b, d], contrast_BDC[b, d], mean_BDA[b, d]
            liked = other = np.float32(0)
            for age in range(min(history_length, length)):
                item = item_BH[b, length - 1 - age]
                if item < 0:
                    continue
                weight = np.exp(-np.float32(age) / decay_D[d])
                values = items.value_V[items.first_N[item] : items.first_N[item + 1]]
                if weight_BH[b, length - 1 - age] >= np.float32(success):
                    liked += weight
                    for c in values:
                        liked_C[c] += weight
                        contrast_C[c] += weight
                else:
                    other += weight
                    for c in values:
                        contrast_C[c] -= weight
                for a in range(n_attributes):
                    mean_A[a] += weight * items.attributes_NA[item, a]
            liked_C /= max(liked, np.float32(1e-6))
            contrast_C /= liked + other + np.float32(1)
            mean_A /= max(liked + other, np.float32(1e-6))
            start = d * (n_attributes + 1)
            columns_BW[b, start : start + n_attributes] = mean_A
            columns_BW[b, start + n_attributes] = liked / max(liked + other, np.float32(1e-6))
        columns_BW[b, width] = np.log1p(np.float32(length)) / np.float32(3) - np.float32(1.2)
        columns_BW[b, width + 1 :] = features_BX[b]
    return HistorySummaries(liked_BDC, contrast_BDC, mean_BDA, columns_BW)


@njit(cache=True, nogil=True)
def fill_rows(
    items: ItemFeatures,
    users: HistorySummaries,
    standard: Standardisation,
    item_BK: Ints,
    mask_BK: Bools,
    source_scores_BKS: Floats,
    rows_RF: Floats,
) -> None:
    """Writes the features of the candidates in `mask_BK`, in order, to `rows_RF`; the columns are those of
    ranker_inputs.py.

    The columns of `items` and `users` are standardised already; the others are standardised here.
    """
    n_sources, n_items_own = source_scores_BKS.shape[2], items.columns_NI.shape[1]
    n_decays, n_attributes = users.mean_BDA.shape[1:]
    numeric = n_attributes - 2
    columns_BW = users.columns_BW
    n_rest = columns_BW.shape[1] - n_decays * (n_attributes + 1)
    clip: Any = np.float32(standard.clip)
    mean_F, scale_F = standard.mean_F, standard.scale_F
    r = 0
    for b in range(item_BK.shape[0]):
        for k in range(item_BK.shape[1]):
            if not mask_BK[b, k]:
                continue
            item, row_F = item_BK[b, k], rows_RF[r]
            r += 1
            for s in range(n_sources):
                row_F[s] = clamp((source_scores_BKS[b, k, s] - mean_F[s]) * scale_F[s], clip)
            f = n_sources
            first, end = items.first_N[item], items.first_N[item + 1]
            spread = np.sqrt(np.float32(max(end - first, 1)))
            for d in range(n_decays):
                liked = contrast = np.float32(0)
                for v in range(first, end):
                    liked += users.liked_BDC[b, d, items.value_V[v]]
                    contrast += users.contrast_BDC[b, d, items.value_V[v]]
                row_F[f] = clamp((liked / spread - mean_F[f]) * scale_F[f], clip)
                row_F[f + 1] = clamp((contrast / spread - mean_F[f + 1]) * scale_F[f + 1], clip)
                f += 2
                for a in range(n_attributes):
                    difference = items.attributes_NA[item, a] - users.mean_BDA[b, d, a]
                    row_F[f + a] = clamp((difference - mean_F[f + a]) * scale_F[f + a], clip)
                    if a < numeric:
                        g = f + n_attributes + a
                        row_F[g] = clamp((abs(difference) - mean_F[g]) * scale_F[g], clip)
                f += n_attributes + numeric
                for w in range(n_attributes + 1):
                    row_F[f + w] = columns_BW[b, d * (n_attributes + 1) + w]
                f += n_attributes + 1
            for w in range(n_rest):
                row_F[f + w] = columns_BW[b, n_decays * (n_attributes + 1) + w]
            f += n_rest
            for i in range(n_items_own):
                row_F[f + i] = items.columns_NI[item, i]


@njit(cache=True, nogil=True, inline="always")
def clamp(value: Any, clip: Any) -> Any:
    """`value` clipped to ± `clip`."""
    return min(max(value, -clip), clip)
