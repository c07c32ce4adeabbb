"""Which column of a file is which: named by the user, or as ours are called. What is missing is named with a remedy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import pyarrow as pa

from graphs.data.data_file import FIELDS, INTERACTIONS, ITEMS, USERS, DataConfig
from graphs.data.features import is_index, unread
from graphs.data.findings import Findings, listed, near

REQUIRED: Mapping[str, tuple[str, ...]] = {
    INTERACTIONS: ("user_id", "item_id", "timestamp"),
    ITEMS: ("item_id",),
    USERS: ("user_id",),
}

_ALIASES: Mapping[str, str] = {
    "user_id": "user customer customerid client clientid visitor visitorid account accountid member memberid buyer "
    "reviewer reviewerid profileid uid uuid person personid subscriber subscriberid",
    "item_id": "item sku product productid productcode article articleid movie movieid asin parentasin track trackid "
    "song songid book bookid isbn content contentid offer offerid listing listingid iid pid "
    "stockcode variant variantid id",
    "timestamp": "ts time datetime date eventtime eventtimestamp eventdate createdat created unixtime unixreviewtime "
    "epoch day invoicedate orderdate purchasedate occurredat tdat timestampms",
    "event_type": "event eventname type action behavior behaviour interaction interactiontype actiontype",
    "event_id": "eventid uniqueid messageid",
    "weight": "rating stars score",
    "title": "name productname itemname",
}


def resolve(table: str, file: str, schema: pa.Schema, config: DataConfig, findings: Findings) -> dict[str, str]:
    """Our names of the columns that mean something to the file's names.

    Adds a fault for every column that is missing, or that the file has twice.
    """
    repeated = [name for name, count in Counter(schema.names).items() if count > 1]
    if repeated:
        findings.fault(f"{file}: columns with the same name: {listed(repeated)}; rename them")
        return {}
    found: dict[str, str] = {}
    missing: list[tuple[str, str]] = []
    for field in FIELDS[table]:
        named, must_exist = config.column(table, field)
        present = next(
            (name for name in (named, field) if name in schema.names and not (must_exist and name != named)), ""
        )
        if present:
            found[field] = present
        elif must_exist or field in REQUIRED[table]:
            missing.append((field, named))
    if missing:
        _name_missing(table, file, missing, schema.names, list(found.values()), findings)
    if table == INTERACTIONS and config.event_type and "event_type" in found:
        findings.fault(f"{file}: has a column {found['event_type']}, and data.yaml says event_type for all; keep one")
    taken: dict[str, str] = {}
    for field, name in found.items():
        if name in taken:
            findings.fault(f"{file}: column {name} can't be both {taken[name]} and {field}; give one another column")
        taken[name] = field
    return found


def features(schema: pa.Schema, found: Mapping[str, str], file: str, findings: Findings) -> list[str]:
    """The other columns of items or users that are worth reading; notes those that are not."""
    names, left_out = [], []
    for each in schema:
        if each.name in found.values():
            continue
        reason = "an index of pandas" if is_index(each.name) else unread(each.type)
        if each.name in ("item_id", "user_id", "title"):
            reason = "another column is named for it" if each.name in found else "an id of another table"
        if reason:
            left_out.append(f"{each.name or repr(each.name)} ({reason})")
        else:
            names.append(each.name)
    if left_out:
        findings.note(f"{file}: left out: {listed(left_out)}")
    return names


def note_unused(file: str, schema: pa.Schema, found: Mapping[str, str], findings: Findings) -> None:
    """Notes the columns of the events that nothing reads."""
    others = [name for name in schema.names if name not in found.values() and not is_index(name)]
    indexes = [name for name in schema.names if is_index(name)]
    if indexes:
        findings.note(f"{file}: left out: {listed([name or repr(name) for name in indexes])} (an index of pandas)")
    if not others:
        return
    sentence = f"{file}: columns that are not used: {listed(others)}"
    hints = []
    if "event_type" not in found and (kind := _alias("event_type", others)):
        hints.append(f"if {kind} holds types of events, add --columns event_type={kind}")
    if "weight" not in found and (rating := _alias("weight", others)):
        hints.append(
            f"if {rating} is a rating, say in data.yaml from where on it is a success: "
            f"weight: {{column: {rating}, success_from: 4}}"
        )
    findings.note("; ".join([sentence, *hints]))


def _name_missing(
    table: str,
    file: str,
    missing: Sequence[tuple[str, str]],
    names: Sequence[str],
    taken: Sequence[str],
    findings: Findings,
) -> None:
    free = [name for name in names if name not in taken]
    suggested, unnamed = [], []
    for field, named in missing:
        name = near(named, free) if named != field else _alias(field, free)
        if name:
            free = [each for each in free if each != name]
            suggested.append(f"{_option(table, field)}={name}")
        else:
            unnamed.append(field)
    told = [named if named == field else f"{named} (named for {field})" for field, named in missing]
    sentence = (
        f"{file}: column{'s' if len(told) > 1 else ''} {', '.join(told)} {'are' if len(told) > 1 else 'is'} missing"
    )
    remedies = []
    if suggested:
        remedies.append(f"perhaps --columns {','.join(suggested)}")
    if unnamed and free and all(_looks_like_a_value(name) for name in free):
        remedies.append("it seems to have no header line: add one")
    elif unnamed:
        remedies.append(f"name {'it' if len(unnamed) == 1 else 'them'} by --columns " + ",".join(
            f"{_option(table, field)}=NAME" for field in unnamed))  # fmt: skip
    findings.fault("; ".join([sentence, f"the file has: {listed(names)}", *remedies]))


def _option(table: str, field: str) -> str:
    return field if table == INTERACTIONS or field in ("title", "user_id") else f"{table}.{field}"


def _alias(field: str, names: Sequence[str]) -> str:
    """The name among `names` that is usual for `field`, or nearly the same; empty: none."""
    aliases = _ALIASES[field].split()
    plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names)}
    for alias in (field.replace("_", ""), *aliases):
        if alias in plain:
            return plain[alias]
    return near(field, names)


def _looks_like_a_value(name: str) -> bool:
    return bool(re.fullmatch(r"[\d.,:\-+T Z]+", name))
