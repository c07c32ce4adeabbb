"""Training data: MovieLens, or the user's own tables; checked, indexed, sorted.

docs/data.md says what is read. `load_dataset` finds and reads the tables; `from_tables` takes them from memory. Both
check everything before they refuse anything, and say what was left out or changed in `Dataset.notes`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.messages import Array, Bools, Floats, Ints, Shorts, Times
from deployments.models.features.history_weights import SUCCESS_THRESHOLD
from deployments.store.event_types import UNTYPED, EventsConfig
from deployments.store.events import seen_until
from graphs.data import movielens
from graphs.data.columns import REQUIRED, features, note_unused, resolve
from graphs.data.data_file import FIELDS, INTERACTIONS, ITEMS, USERS, DataConfig
from graphs.data.entities import entity_table, note_users, with_missing_items
from graphs.data.events import kept_rows, read_events
from graphs.data.findings import Findings, counted, listed
from graphs.data.readers import Reader
from graphs.data.repeats import MIN_USERS, judged_users, taken_out
from graphs.data.sources import locate

MOVIELENS = "movielens"


@dataclass(frozen=True, slots=True)
class Interactions:
    """E events, sorted by user, then time, then item id. The store keeps the same order."""

    user_E: Ints
    item_E: Ints
    timestamp_E: Times
    weight_E: Floats
    """Strength: `EventType.strength`, or the event's own weight."""
    type_E: Shorts
    """Position in `Dataset.event_types`."""
    seen_s_E: Times
    """Seconds from the event for which it takes its item out of answers: 0 never, inf always."""
    target_E: Bools
    """Events that the models learn to predict, and that the evaluation judges by."""

    @classmethod
    def untyped(cls, user_E: Ints, item_E: Ints, timestamp_E: Times, weight_E: Floats) -> Interactions:
        """Events without types, as the default of `EventsConfig` takes them: every success is a target, and every
        event takes its item out of answers."""
        return cls(
            user_E,
            item_E,
            timestamp_E,
            weight_E,
            type_E=np.zeros(len(user_E), np.int16),
            seen_s_E=np.full(len(user_E), np.inf),
            target_E=weight_E >= SUCCESS_THRESHOLD,
        )

    @classmethod
    def concat(cls, parts: Sequence[Interactions]) -> Interactions:
        """All events of `parts`, in order."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def __len__(self) -> int:
        return len(self.user_E)

    @property
    def success_E(self) -> Bools:
        """Events that speak for their item."""
        return self.weight_E >= SUCCESS_THRESHOLD

    def take(self, rows: Array | slice) -> Interactions:
        """The events that a mask, an index or a slice selects."""
        return Interactions(*(getattr(self, each.name)[rows] for each in fields(self)))

    @property
    def seen_until_E(self) -> Times:
        """Unix seconds until which each event takes its item out of answers: -inf never, inf always."""
        return seen_until(self.timestamp_E, self.seen_s_E)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Interactions over `users` and the rows of `items` (item_id, title, features; sorted by item_id)."""

    name: str
    interactions: Interactions
    users: list[str]
    items: pa.Table
    user_table: pa.Table | None = None
    """user_id and the features of users.parquet; None without that file."""
    event_types: Sequence[str] = (UNTYPED,)
    """Names of the types of the events, lower case."""
    success_types: Sequence[str] = ()
    """Types taken as successes because the data have no event that the configuration calls one."""
    repeated_types: Sequence[str] = ()
    """Types after which an item stays in answers, whatever the configuration says: users repeat the same items."""
    event_ids: pa.Array | None = None
    """Your own ids of the events, text, aligned with `interactions`; None without such a column."""
    own_weight_E: Floats | None = None
    """The weights that the data give, NaN where the type's applies; None without such a column."""
    notes: Sequence[str] = ()
    """One sentence for each thing that was left out, filled in or changed."""

    @property
    def repeats(self) -> bool:
        """Whether an answer may contain items of the user's own history: some event for an item leaves it there."""
        return bool(((self.interactions.seen_s_E < np.inf) & (self.interactions.weight_E > 0)).any())


def load_dataset(data: str, config: EventsConfig | None = None, columns: str = "") -> Dataset:
    """Loads `movielens`; or a folder, a file of events, or a data.yaml, at a path or any fsspec URI.

    `config`: what the types of events mean; `columns`: your names of columns, as `--columns` takes them.

    Raises:
        DataError: naming the file, the column, the first wrong value and its row, and the remedy.
    """
    if data == MOVIELENS:
        return from_tables(MOVIELENS, *movielens.tables(), config=config)
    findings = Findings()
    located = locate(data, columns, findings)
    text = {name for names in FIELDS.values() for name in names if name not in ("timestamp", "weight")}
    text |= {yours for ours, yours in located.config.columns.items() if ours.rpartition(".")[2] in text}
    readers = {table: Reader.open(source, text) for table, source in located.sources.items()}
    dataset = _load(located.name, readers, config or EventsConfig(), located.config, findings)
    files = ", ".join(reader.file for reader in readers.values())
    return replace(dataset, notes=[f"{dataset.notes[0]}, from {files}", *dataset.notes[1:]])


def from_tables(
    name: str,
    interactions: pa.Table,
    items: pa.Table | None = None,
    user_table: pa.Table | None = None,
    config: EventsConfig | None = None,
    data_config: DataConfig | None = None,
) -> Dataset:
    """Checks and indexes tables in memory, under the names interactions.parquet and so on.

    Raises:
        DataError: as `load_dataset`.
    """
    given = {INTERACTIONS: interactions, ITEMS: items, USERS: user_table}
    readers = {
        table: Reader.of_table(content, f"{table}.parquet") for table, content in given.items() if content is not None
    }
    return _load(name, readers, config or EventsConfig(), data_config or DataConfig(), Findings())


def _load(
    name: str, readers: Mapping[str, Reader], config: EventsConfig, data_config: DataConfig, findings: Findings
) -> Dataset:
    """Reads and checks everything; raises all faults together."""
    events, items, user_table = None, None, None
    files = {table: reader.file for table, reader in readers.items()}
    for table, reader in readers.items():
        names = resolve(table, reader.file, reader.schema, data_config, findings)
        if not names or (table != INTERACTIONS and not set(REQUIRED[table]) <= names.keys()):
            continue
        content = _read(reader, table, names, findings)
        if content is None:
            continue
        if table == INTERACTIONS:
            events = read_events(content, reader.file, names, config, data_config, time.time(), findings)
        elif table == ITEMS:
            items = entity_table(content, reader.file, "item_id", names["item_id"], findings)
        else:
            user_table = entity_table(content, reader.file, "user_id", names["user_id"], findings)
    findings.raise_faults()
    assert events is not None
    items = with_missing_items(items, events.items.values, files[INTERACTIONS], files.get(ITEMS, ""), findings)
    if user_table is not None:
        note_users(user_table, events.users.values, files[INTERACTIONS], files[USERS], findings)
    findings.raise_faults()
    position_U = pc.index_in(events.items.values, items.column("item_id").combine_chunks()).to_numpy()
    item_E = position_U[events.items.code_E].astype(np.int32)
    rows = kept_rows(events, item_E, data_config.max_events_per_user, files[INTERACTIONS], findings)
    kept = Interactions(
        user_E=events.users.code_E,
        item_E=item_E,
        timestamp_E=events.timestamp_E,
        weight_E=events.meaning.weight_E,
        type_E=events.types.code_E,
        seen_s_E=events.meaning.seen_s_E,
        target_E=events.meaning.target_E,
    ).take(rows)
    kept, repeated = _with_repeats(kept, events.types.names, files[INTERACTIONS], findings)
    findings.notes.insert(
        0,
        f"{name}: {counted(len(kept), 'event')} of {counted(len(events.users.values), 'user')} on "
        f"{counted(len(items), 'item')}",
    )
    if items_named := [column for column in items.column_names if column != "item_id"]:
        findings.note(f"features of items: {listed([n for n in items_named if n != 'title'])}")
    return Dataset(
        name=name,
        interactions=kept,
        users=events.users.values.to_pylist(),
        items=items,
        user_table=user_table,
        event_types=events.types.names,
        success_types=events.meaning.success_types,
        repeated_types=repeated,
        event_ids=None if events.event_ids is None else events.event_ids.take(rows),
        own_weight_E=None if events.own_weight_E is None else events.own_weight_E[rows].astype(np.float32),
        notes=findings.notes,
    )


def _with_repeats(
    events: Interactions, types: Sequence[str], file: str, findings: Findings
) -> tuple[Interactions, list[str]]:
    """`events`, and the types whose `seen` does not apply: with it hardly a user had a success left to learn from."""
    out_E = taken_out(events.user_E, events.item_E, events.timestamp_E, events.seen_until_E)
    judged = judged_users(events.user_E, events.target_E, out_E)
    if judged.with_successes < MIN_USERS or judged.answerable >= MIN_USERS:
        return events, []
    again_E = (events.seen_s_E > 0) & (events.weight_E > 0)
    names = [types[code] for code in np.unique(events.type_E[again_E])]
    findings.note(
        f"{file}: users repeat the same items: {counted(judged.answerable, 'user')} of {judged.with_successes:,} would "
        f"have a success left that an answer may have, so items stay in answers after {listed(names)}, whatever seen "
        "says under events of the configuration"
    )
    return replace(events, seen_s_E=np.where(again_E, 0.0, events.seen_s_E)), names


def _read(reader: Reader, table: str, names: dict[str, str], findings: Findings) -> pa.Table | None:
    """The needed columns under our names; None after a fault."""
    others: list[str] = []
    if table == INTERACTIONS:
        note_unused(reader.file, reader.schema, names, findings)
    else:
        others = features(reader.schema, names, reader.file, findings)
    content = reader.read([*names.values(), *others]).rename_columns([*names, *others])
    for name in content.column_names:
        try:
            if not pa.types.is_date64(content.column(name).type):  # Arrow refuses those with a time of day
                content.column(name).validate(full=True)
        except pa.ArrowException as error:
            findings.fault(f"{reader.file}: column {name} is damaged: {' '.join(str(error).split())[:200]}")
            return None
    return content
