"""A history as weights: how much each past event says about what comes next."""

from __future__ import annotations

import numpy as np

from deployments.messages import PAD, Array, Floats, Ints, at

POSITIVE = 0.799
"""An event whose weight reaches this was a success (MovieLens: 4 of 5 stars is 0.8)."""

WEAK = 0.5
"""What an event between 0 and POSITIVE counts for, next to 1 for a success: it still tells what the user looks at."""


def last(item_BH: Ints, weight_BH: Floats, length: int) -> tuple[Ints, Floats]:
    """The last events, most recent first: items and weights [B, L]; -1 and 0 where a history is shorter."""
    if item_BH.shape[1] == 0:
        shape = (len(item_BH), length)
        return np.full(shape, PAD, np.int32), np.zeros(shape, np.float32)
    column_BL: Array = (item_BH >= 0).sum(axis=1)[:, None] - 1 - np.arange(length)
    is_event_BL = column_BL >= 0
    column_BL = np.maximum(column_BL, 0)
    item_BL, weight_BL = at(item_BH, column_BL), at(weight_BH, column_BL)
    return np.where(is_event_BL, item_BL, np.int32(PAD)), np.where(is_event_BL, weight_BL, np.float32(0))


def evidence(item_BH: Ints, weight_BH: Floats, decay_V: Floats, length: int) -> tuple[Ints, Floats]:
    """How strongly the last events speak at several decays: 1 (success), WEAK or 0 (dislike), times exp(-age / decay),
    an event's age being the number of those after it. Returns events, most recent first, -1 padded [B, L], and
    float32 [B, L, V]; L is `length`, or less if no history is as long.
    """
    item_BL, weight_BL = last(item_BH, weight_BH, min(length, max(1, item_BH.shape[1])))
    strength_BL = np.where(weight_BL >= POSITIVE, np.float32(1), np.float32(WEAK)) * (weight_BL > 0) * (item_BL >= 0)
    fading_LV = np.exp(-np.arange(item_BL.shape[1], dtype=np.float32)[:, None] / decay_V)
    return item_BL, strength_BL[:, :, None] * fading_LV
