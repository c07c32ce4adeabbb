"""Histories from offline events: the messages that the store would give, and the events that the store is given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from deployments.messages import PAD, Floats, HistoryBatch, Shorts, Times
from graphs.data.dataset import Dataset, Interactions


def history_batch(
    events: Interactions,
    starts: Sequence[int],
    ends: Sequence[int],
    now_B: Times,
    features_BF: Floats,
    model_version: str,
    position_T: Shorts | None = None,
) -> HistoryBatch:
    """B histories: the slices `starts[b]:ends[b]` of `events`, with the features of their users.

    `now_B`: Unix seconds of each request, for what counts as seen. `position_T`: the position in the artifact's event
    types of each type of the data; None: the artifact has no event types.
    """
    lengths = np.array(ends) - np.array(starts)
    column_H = np.arange(max(1, int(lengths.max(initial=0))))
    inside_BH = column_H < lengths[:, None]
    at_BH = np.where(inside_BH, np.array(starts)[:, None] + column_H, 0)
    typed_BH = inside_BH if position_T is not None else inside_BH[:, :0]
    type_BY, age_BY = np.full(typed_BH.shape, PAD, np.int16), np.zeros(typed_BH.shape, np.float32)
    if position_T is not None:
        type_BY = np.where(inside_BH, position_T[events.type_E[at_BH]], PAD).astype(np.int16)
        age_BY = np.where(inside_BH, now_B[:, None] - events.timestamp_E[at_BH], 0).astype(np.float32)
    return HistoryBatch(
        model_version=model_version,
        item_BH=np.where(inside_BH, events.item_E[at_BH], PAD).astype(np.int32),
        timestamp_BH=np.where(inside_BH, events.timestamp_E[at_BH], 0.0),
        weight_BH=np.where(inside_BH, events.weight_E[at_BH], 0).astype(np.float32),
        seen_BH=inside_BH & (events.seen_until_E[at_BH] > now_B[:, None]),
        type_BY=type_BY,
        age_BY=age_BY,
        features_BF=features_BF,
    )


def stored_histories(dataset: Dataset) -> pa.Table:
    """All events as the artifact carries them for the store, sorted by user: user_id, item_id, timestamp, event_type,
    weight (null where that of the type applies, so that the configuration which serves gives it), event_id (null where
    the data have none)."""
    events = dataset.interactions
    types = pa.array(dataset.event_types, pa.string())
    weights = pa.nulls(len(events), pa.float64())
    if dataset.own_weight_E is not None:
        weight_E = dataset.own_weight_E.astype(np.float64).round(6)
        weights = pa.array(weight_E, mask=np.isnan(weight_E))
    ids = pa.nulls(len(events), pa.string()) if dataset.event_ids is None else dataset.event_ids
    return pa.table(
        {
            "user_id": pa.array(dataset.users, pa.string()).take(pa.array(events.user_E)),
            "item_id": dataset.items.column("item_id").combine_chunks().take(pa.array(events.item_E)),
            "timestamp": events.timestamp_E,
            "event_type": types.take(pa.array(events.type_E)),
            "weight": weights,
            "event_id": ids,
        }
    )
