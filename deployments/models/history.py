"""A history as weights: how much each past event says about what comes next."""

from __future__ import annotations

import numpy as np

from deployments.messages import Bools, Floats, Ints

POSITIVE = 0.799
"""An event whose weight reaches this was a success (MovieLens: 4 of 5 stars is 0.8)."""

WEAK = 0.5
"""What an event between 0 and POSITIVE counts for, next to 1 for a success: it still tells what the user looks at."""


def age(item_BH: Ints) -> Floats:
    """Events that came after each one: 0 for the most recent (and for padding; mask it). float32 [B, H]."""
    length_B = (item_BH >= 0).sum(axis=1, dtype=np.int32)
    age_BH: Ints = length_B[:, None] - 1 - np.arange(item_BH.shape[1], dtype=np.int32)
    return np.maximum(age_BH, 0).astype(np.float32)


def evidence(item_BH: Ints, weight_BH: Floats, decay: float) -> Floats:
    """How strongly each event speaks: 1 (success), WEAK or 0 (dislike), times exp(-age / decay). float32 [B, H]."""
    strength_BH = np.where(weight_BH >= POSITIVE, np.float32(1), np.float32(WEAK)) * (weight_BH > 0)
    return np.where(item_BH >= 0, strength_BH * np.exp(-age(item_BH) / np.float32(decay)), np.float32(0))


def recent(item_BH: Ints, length: int) -> Bools:
    """True for the last `length` events of each row. bool [B, H]."""
    return (item_BH >= 0) & (age(item_BH) < length)


def last(item_BH: Ints, length: int) -> tuple[Ints, Ints]:
    """The last events, most recent first: (column [B, L] to gather with, item [B, L], -1 padded)."""
    length_B = (item_BH >= 0).sum(axis=1, dtype=np.int64)
    column_BL = length_B[:, None] - 1 - np.arange(length)
    safe_BL = np.maximum(column_BL, 0)
    if item_BH.shape[1] == 0:
        return safe_BL.astype(np.int32), np.full(safe_BL.shape, -1, np.int32)
    return safe_BL.astype(np.int32), np.where(column_BL >= 0, np.take_along_axis(item_BH, safe_BL, axis=1), -1)
