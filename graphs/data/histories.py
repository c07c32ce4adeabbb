"""Histories for the stages, from offline events: the messages that the store would give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.messages import PAD, Floats, HistoryBatch, Times
from graphs.data.dataset import Interactions


def history_batch(
    events: Interactions,
    starts: Sequence[int],
    ends: Sequence[int],
    now_B: Times,
    features_BF: Floats,
    model_version: str,
) -> HistoryBatch:
    """B histories: the slices `starts[b]:ends[b]` of `events`, with the features of their users.

    `now_B`: Unix seconds of each request, for what counts as seen.
    """
    lengths = np.array(ends) - np.array(starts)
    column_H = np.arange(max(1, int(lengths.max(initial=0))))
    inside_BH = column_H < lengths[:, None]
    at_BH = np.where(inside_BH, np.array(starts)[:, None] + column_H, 0)
    return HistoryBatch(
        model_version=model_version,
        item_BH=np.where(inside_BH, events.item_E[at_BH], PAD).astype(np.int32),
        timestamp_BH=np.where(inside_BH, events.timestamp_E[at_BH], 0.0),
        weight_BH=np.where(inside_BH, events.weight_E[at_BH], 0).astype(np.float32),
        seen_BH=inside_BH & (events.seen_until_E[at_BH] > now_B[:, None]),
        features_BF=features_BF,
    )
