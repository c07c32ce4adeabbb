"""The table of the interactions as columns of numbers, and which of its rows are kept, in which order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from deployments.messages import Array, Bools, Ints, Times
from deployments.store.event_types import UNTYPED, EventsConfig
from graphs.data.data_file import DataConfig
from graphs.data.event_columns import (
    Meaning,
    Types,
    describe_types,
    meaning,
    read_ratings,
    read_types,
    read_weights,
    untyped,
)
from graphs.data.findings import Findings, counted, shown
from graphs.data.ids import Ids, read_ids
from graphs.data.times import unix_seconds


class Events(NamedTuple):
    """E events, in the order of the file."""

    users: Ids
    items: Ids
    timestamp_E: Times
    types: Types
    meaning: Meaning
    event_ids: Ids | None
    own_weight_E: Times | None
    """The weights that the file gives, NaN where the type's applies."""


def read_events(
    table: pa.Table,
    file: str,
    names: dict[str, str],
    config: EventsConfig,
    data_config: DataConfig,
    now: float,
    findings: Findings,
) -> Events | None:
    """The events of `table`, whose columns have our names; None after a fault, or if one of the required columns is not
    there. `names`: what the file calls the columns."""
    if not len(table):
        findings.fault(f"{file} has no rows; there is nothing to train on")
        return None
    users, items, times = None, None, None
    if "user_id" in names:
        users = read_ids(table.column("user_id"), file, names["user_id"], findings)
    if "item_id" in names:
        items = read_ids(table.column("item_id"), file, names["item_id"], findings)
    if "timestamp" in names:
        times = unix_seconds(table.column("timestamp"), file, names["timestamp"], data_config.time_unit, now, findings)
    event_ids, types, weight_E = None, untyped(len(table), data_config.event_type), None
    faults = len(findings.faults)
    if "event_id" in names:
        event_ids = read_ids(table.column("event_id"), file, names["event_id"], findings, null=True)
    if "weight" in names:
        if data_config.weight:
            weight_E = read_ratings(table.column("weight"), file, data_config.weight, findings)
        else:
            weight_E = read_weights(table.column("weight"), file, names["weight"], findings)
    if "event_type" in names:
        found = read_types(table.column("event_type"), file, names["event_type"], findings)
        types = found or types
    if types.names != [UNTYPED] and len(findings.faults) == faults:
        describe_types(types, config, file, findings)
    if len(findings.faults) > faults:
        return None
    means = meaning(types, weight_E, config, file, findings)
    if users is None or items is None or times is None or len(findings.faults) > faults:
        return None
    return Events(users, items, times, types, means, event_ids, weight_E)


def kept_rows(events: Events, item_E: Ints, most: int, file: str, findings: Findings) -> Array:
    """The rows to keep, sorted by user, then time, then item. Left out: repeated events, and of users with more than
    `most` events the oldest. `item_E`: the items as positions among all items."""
    user_E = events.users.code_E
    order = np.lexsort((item_E, events.timestamp_E, user_E))
    again_E = _repeated(events, item_E, order)
    if again_E.any():
        what = "user, item, type and time" + (", or event_id" if events.event_ids else "")
        findings.note(f"{file}: {counted(int(again_E.sum()), 'repeated row')} (the same {what}) left out")
        order = order[~again_E[order]]
    user_R = user_E[order]
    end_R = np.searchsorted(user_R, user_R, side="right")
    old_R = end_R - np.arange(len(order)) > most
    if old_R.any():
        count_U = np.bincount(user_R[old_R], minlength=len(events.users.values))
        giant = int(np.argmax(count_U))
        findings.note(
            f"{file}: {counted(int((count_U > 0).sum()), 'user')} with more than {most:,} events, such as "
            f"{shown(events.users.values[giant].as_py())} with {int(count_U[giant]) + most:,}: only the newest "
            f"{most:,} of each are kept (max_events_per_user in data.yaml)"
        )
    return order[~old_R]


def _repeated(events: Events, item_E: Ints, order: Array) -> Bools:
    """True for every event [E] that an earlier row has already, by the rule of deployments/store/seeding.py: same user
    and item, and the same id, or the same millisecond and type. `order`: by user, time and item."""
    again_E = np.zeros(len(order), np.bool_)
    if events.event_ids is not None:
        ids = (events.event_ids.code_E, events.users.code_E, item_E)
        rows = np.flatnonzero(ids[0] >= 0)
        by_id = rows[np.lexsort([each[rows] for each in ids])]
        same = np.logical_and.reduce([each[by_id[1:]] == each[by_id[:-1]] for each in ids])
        again_E[by_id[1:][same]] = True
    columns = (events.users.code_E, np.rint(events.timestamp_E * 1000), item_E, events.types.code_E)
    tied = np.flatnonzero(np.logical_and.reduce([each[order[1:]] == each[order[:-1]] for each in columns[:3]]))
    if len(tied):
        some = np.unique(np.concatenate([order[tied], order[tied + 1]]))
        exact = some[np.lexsort([each[some] for each in reversed(columns)])]
        same = np.logical_and.reduce([each[exact[1:]] == each[exact[:-1]] for each in columns])
        again_E[exact[1:][same]] = True
    return again_E
