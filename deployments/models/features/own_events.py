"""The features of the user's own events on the very candidate: how long ago, how many, how strong, of which types.

An artifact has them if its answers may contain items of the user's history (`Schema.event_types`). They are the last
ones of the ranking features; `own_event_names` in ranker_inputs.py has their order and their definition.

Shapes: B requests, H or Y events of history, K candidates, R real candidates of all requests, D decays, T event
types, L events read, S slots of a hash table, X own-event features, F features in all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from deployments.messages import Bools, Floats, Ints, Shorts

HOURS = 24 * 90
"""From this age on, the hours since an event no longer count."""


def slots(history_length: int) -> int:
    """Size of the hash table that `fill_own_events` needs: a power of two, at least three times the events read."""
    return 1 << (3 * history_length).bit_length()


@njit(cache=True, nogil=True)
def fill_own_events(
    item_BH: Ints,
    weight_BH: Floats,
    type_BY: Shorts,
    age_BY: Floats,
    decay_D: Floats,
    n_types: int,
    history_length: int,
    n_slots: int,
    mean_F: Floats,
    scale_F: Floats,
    clip: Any,
    item_BK: Ints,
    mask_BK: Bools,
    rows_RF: Floats,
) -> None:
    """Writes the features of the candidates in `mask_BK`, in order, to the last X columns of `rows_RF`, standardised.

    Reads the last `history_length` events. `age_BY`: seconds; `n_slots`: see `slots`.
    """
    n_decays = len(decay_D)
    counts = n_decays + 4
    width = counts + 2 * n_types
    start = rows_RF.shape[1] - width
    item_S = np.empty(n_slots, np.int32)
    place_S = np.empty(n_slots, np.int32)
    own_LX = np.empty((history_length, counts + n_types), np.float32)
    none_X = np.empty(width, np.float32)
    r = 0
    for b in range(item_BK.shape[0]):
        length = 0
        for item in item_BH[b]:
            length += item >= 0
        item_S[:] = -1
        none_X[:] = 0
        total, found = np.float32(0), 0
        for age in range(min(history_length, length)):
            h = length - 1 - age
            item, weight = item_BH[b, h], weight_BH[b, h]
            slot = _slot(item_S, item)
            if item_S[slot] != item:
                item_S[slot], place_S[slot] = item, found
                own_X = own_LX[found]
                found += 1
                own_X[:] = 0
                for d in range(n_decays):
                    own_X[d] = np.exp(-np.float32(age) / decay_D[d])
                own_X[n_decays + 1] = own_X[n_decays + 2] = weight
                hours = np.float32(max(age_BY[b, h], np.float32(0))) / np.float32(3600)
                own_X[n_decays + 3] = max(1 - np.log1p(hours) / np.log1p(np.float32(HOURS)), np.float32(0))
            own_X = own_LX[place_S[slot]]
            own_X[n_decays] += 1
            own_X[n_decays + 1] = max(own_X[n_decays + 1], weight)
            decayed = np.exp(-np.float32(age) / decay_D[n_decays - 1])
            total += decayed
            kind = type_BY[b, h]
            if 0 <= kind < n_types:
                own_X[counts + kind] += decayed
                none_X[counts + n_types + kind] += decayed
        for t in range(n_types):
            none_X[counts + n_types + t] /= max(total, np.float32(1e-6))
        for place in range(found):
            own_X = own_LX[place]
            own_X[n_decays] = np.log1p(own_X[n_decays])
            for t in range(n_types):
                own_X[counts + t] = np.log1p(own_X[counts + t])
            for x in range(counts + n_types):
                own_X[x] = min(max((own_X[x] - mean_F[start + x]) * scale_F[start + x], -clip), clip)
        for x in range(width):
            none_X[x] = min(max((none_X[x] - mean_F[start + x]) * scale_F[start + x], -clip), clip)
        for k in range(item_BK.shape[1]):
            if not mask_BK[b, k]:
                continue
            slot = _slot(item_S, item_BK[b, k])
            if item_S[slot] < 0:
                for x in range(width):
                    rows_RF[r, start + x] = none_X[x]
            else:
                own_X = own_LX[place_S[slot]]
                for x in range(counts + n_types):
                    rows_RF[r, start + x] = own_X[x]
                for x in range(counts + n_types, width):
                    rows_RF[r, start + x] = none_X[x]
            r += 1


@njit(cache=True, nogil=True)
def _slot(item_S: Ints, item: Any) -> int:
    """Where the hash table has `item`, or the free slot where it belongs. Empty: -1."""
    last = item_S.size - 1
    slot = (np.int64(item) * 2654435761 >> 15) & last
    while item_S[slot] != item and item_S[slot] >= 0:
        slot = (slot + 1) & last
    return int(slot)
