"""The tables of items and users: one row per id, sorted by it, with features in the types of features.py."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphs.data.features import read_features, read_titles
from graphs.data.findings import Findings, counted, listed, shown
from graphs.data.ids import read_ids


def entity_table(table: pa.Table, file: str, key: str, name: str, findings: Findings) -> pa.Table | None:
    """`table` with unique text ids in the column `key`, sorted by them; None after a fault.

    Equal rows are one; a fault, if rows of one id differ. `name`: what the file calls the ids.
    """
    ids = read_ids(table.column(key), file, name, findings)
    columns = {}
    if "title" in table.column_names and key == "item_id":
        columns["title"] = read_titles(table.column("title"), file, findings)
    columns |= read_features(table, file, (key, "title") if columns else (key,), findings)
    if ids is None:
        return None
    made = pa.table({key: ids.values.take(pa.array(ids.code_E)), **columns})
    order = np.argsort(ids.code_E, kind="stable")
    again = np.zeros(len(order), np.bool_)
    again[1:] = ids.code_E[order][1:] == ids.code_E[order][:-1]
    if again.any():
        if clash := _first_clash(made, key, order, again):
            findings.fault(f"{file}: {name} {clash}; keep one row per id")
            return None
        findings.note(f"{file}: {counted(int(again.sum()), 'repeated row')} left out")
    return made.take(pa.array(order[~again]))


def _first_clash(table: pa.Table, key: str, order: np.ndarray, again: np.ndarray) -> str:
    """Which id has rows that differ, and how; empty: none has."""
    for at in np.flatnonzero(again):
        first, second = (table.slice(int(row), 1).to_pylist()[0] for row in order[at - 1 : at + 1])
        different = [name for name in first if first[name] != second[name]]
        if different:
            name = different[0]
            return (
                f"{shown(first[key])} has several rows that differ, such as in {name}: {shown(first[name])} and "
                f"{shown(second[name])}"
            )
    return ""


def with_missing_items(
    items: pa.Table | None, used: pa.Array, file: str, items_file: str, findings: Findings
) -> pa.Table:
    """`items` with a row, without features, for each item of the events that it lacks. `used`: ids, sorted."""
    if items is None or not len(items):
        findings.note(
            f"there is no file of items: the {counted(len(used), 'item')} of {file} are taken, without features"
            if not items_file
            else f"{items_file} has no rows: the {counted(len(used), 'item')} of {file} are taken, without features"
        )
        return pa.table({"item_id": used})
    missing = used.filter(pc.invert(pc.is_in(used, items.column("item_id").combine_chunks())))
    if not len(missing):
        return items
    example = shown(missing[0].as_py())
    if len(missing) == len(used):
        other = shown(items.column("item_id")[0].as_py())
        findings.fault(
            f"{items_file}: none of the {counted(len(used), 'item')} of {file} is in it: item_id is {example} there "
            f"and {other} here; give both the same ids"
        )
        return items
    findings.note(
        f"{counted(len(missing), 'item')} of {len(used):,} in {file} not in {items_file}, such as {example}: kept, "
        "without features"
    )
    both = pa.concat_tables([items, pa.table({"item_id": missing})], promote_options="default")
    return both.take(pc.sort_indices(both.column("item_id").combine_chunks())).combine_chunks()


def note_users(users: pa.Table, used: pa.Array, file: str, users_file: str, findings: Findings) -> None:
    """Notes how many users of the events have features; a fault if none has. `used`: their ids."""
    known = pc.is_in(used, users.column("user_id").combine_chunks())
    count = pc.sum(known).as_py() or 0
    if not count and len(users):
        findings.fault(
            f"{users_file}: none of the {counted(len(used), 'user')} of {file} is in it: user_id is "
            f"{shown(used[0].as_py())} there and {shown(users.column('user_id')[0].as_py())} here; give both the same "
            "ids"
        )
    names = [name for name in users.column_names if name != "user_id"]
    findings.note(
        f"features of users: {listed(names)}" + (f"; {len(used) - count:,} of {counted(len(used), 'user')} have none"
        if count < len(used) else "")
    )  # fmt: skip
