"""A history as weights: how much each past event says about what comes next."""

from __future__ import annotations

import numpy as np

from deployments.messages import Floats, Ints

POSITIVE = 0.799
"""An event whose weight reaches this was a success (MovieLens: 4 of 5 stars is 0.8)."""

WEAK = 0.5
"""What an event between 0 and POSITIVE counts for, next to 1 for a success: it still tells what the user looks at."""


def last(item_BH: Ints, length: int) -> tuple[Ints, Ints]:
    """The last events, most recent first: (column [B, L] to gather with, item [B, L], -1 padded)."""
    length_B = (item_BH >= 0).sum(axis=1, dtype=np.int64)
    column_BL = length_B[:, None] - 1 - np.arange(length)
    safe_BL = np.maximum(column_BL, 0)
    if item_BH.shape[1] == 0:
        return safe_BL.astype(np.int32), np.full(safe_BL.shape, -1, np.int32)
    return safe_BL.astype(np.int32), np.where(column_BL >= 0, np.take_along_axis(item_BH, safe_BL, axis=1), -1)


def evidence(item_BH: Ints, weight_BH: Floats, decay_V: Floats, length: int) -> tuple[Ints, Floats]:
    """How strongly the last events speak at several decays: 1 (success), WEAK or 0 (dislike), times exp(-age / decay),
    an event's age being the number of those after it. Returns events, most recent first, -1 padded [B, L], and
    float32 [B, L, V]; L is `length`, or less if no history is as long.
    """
    column_BL, item_BL = last(item_BH, min(length, max(1, item_BH.shape[1])))
    weight_BL = np.zeros(item_BL.shape, np.float32)
    if weight_BH.shape[1]:
        weight_BL = np.take_along_axis(weight_BH, column_BL.astype(np.intp), axis=1)
    strength_BL = np.where(weight_BL >= POSITIVE, np.float32(1), np.float32(WEAK)) * (weight_BL > 0) * (item_BL >= 0)
    fading_LV = np.exp(-np.arange(item_BL.shape[1], dtype=np.float32)[:, None] / decay_V)
    return item_BL, strength_BL[:, :, None] * fading_LV
