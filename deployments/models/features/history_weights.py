"""The weight of each past event as evidence for the next one."""

from __future__ import annotations

import numpy as np

from deployments.messages import PAD, Array, Floats, Ints, take_columns

SUCCESS_THRESHOLD = 0.799
"""An event with at least this weight is a success (MovieLens: 4 of 5 stars is 0.8)."""

WEAK_EVIDENCE = 0.5
"""Evidence of an event with a weight between 0 and SUCCESS_THRESHOLD; a success has 1."""


def last_events(item_BH: Ints, weight_BH: Floats, length: int) -> tuple[Ints, Floats]:
    """The last L = `length` events, most recent first: items and weights [B, L], padded with -1 and 0."""
    if item_BH.shape[1] == 0:
        shape = (len(item_BH), length)
        return np.full(shape, PAD, np.int32), np.zeros(shape, np.float32)
    column_BL: Array = (item_BH >= 0).sum(axis=1)[:, None] - 1 - np.arange(length)
    is_event_BL = column_BL >= 0
    column_BL = np.maximum(column_BL, 0)
    item_BL, weight_BL = take_columns(item_BH, column_BL), take_columns(weight_BH, column_BL)
    return np.where(is_event_BL, item_BL, np.int32(PAD)), np.where(is_event_BL, weight_BL, np.float32(0))


def evidence(item_BH: Ints, weight_BH: Floats, decay_V: Floats, length: int) -> tuple[Ints, Floats]:
    """The last events, and their evidence at V decays: 1, WEAK_EVIDENCE or 0 (dislike), times exp(-age / decay).

    An event's age is the number of later events. Returns items [B, L], most recent first, -1 padded, and float32
    [B, L, V]; L is `length`, or less if no history is as long.
    """
    item_BL, weight_BL = last_events(item_BH, weight_BH, min(length, max(1, item_BH.shape[1])))
    strength_BL = (
        np.where(weight_BL >= SUCCESS_THRESHOLD, np.float32(1), np.float32(WEAK_EVIDENCE))
        * (weight_BL > 0)
        * (item_BL >= 0)
    )
    fading_LV = np.exp(-np.arange(item_BL.shape[1], dtype=np.float32)[:, None] / decay_V)
    return item_BL, strength_BL[:, :, None] * fading_LV
