"""Seeding: which events of an artifact a user's stored history does not have yet.

Two events of a user on an item are the same if their ids are equal, or if their times agree to the millisecond and
their types are equal or one of them is UNTYPED. So an event that came through the API and one of the data that were
exported later are the same, and so is one that an artifact without event types brought.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from deployments.store.event_types import UNTYPED, key_of
from deployments.store.events import Event

MOST_EVENTS, MOST_USERS = 1000, 50
"""Events and users of a chunk. The stored histories of its users are in memory at a time."""

_SEEDED = "history-"


def seeded_id(timestamp: float) -> str:
    """The id of an event that has none of its own; the timestamp in Unix seconds."""
    return f"{_SEEDED}{timestamp!r}"


def is_seeded_id(event_id: str) -> bool:
    """Whether the id was made by `seeded_id`: events of several items may share it."""
    return event_id.startswith(_SEEDED)


def chunks(events: Iterable[Event]) -> Iterator[Mapping[str, Sequence[Event]]]:
    """The events by user, in order, at most MOST_EVENTS of MOST_USERS at a time."""
    chunk: dict[str, list[Event]] = defaultdict(list)
    size = 0
    for event in events:
        if size == MOST_EVENTS or (len(chunk) == MOST_USERS and event.user_id not in chunk):
            yield chunk
            chunk, size = defaultdict(list), 0
        chunk[event.user_id].append(event)
        size += 1
    if chunk:
        yield chunk


def missing(
    events: Iterable[Event], members: Sequence[bytes], timestamps: Sequence[float], history_limit: int
) -> list[Event]:
    """The `events` of one user that the stored history does not have, each once.

    `members`, `timestamps`: the stored history, oldest first. A full one, of `history_limit` events, takes no older.
    """
    ids: set[tuple[str, str]] = set()
    types: dict[tuple[str, int], set[str]] = defaultdict(set)
    for member, timestamp in zip(members, timestamps, strict=True):
        item_id, event_id, event_type, _, _ = member.decode("utf-8", "surrogatepass").split("\0")
        types[item_id, round(timestamp * 1000)].add(key_of(event_type) or UNTYPED)
        ids.add((item_id, event_id))
    oldest = (timestamps[0], members[0]) if len(members) >= history_limit else None
    new = []
    for event in events:
        found = types[event.item_id, round(event.timestamp * 1000)]
        kind, own = key_of(event.event_type) or UNTYPED, (event.item_id, event.event_id)
        same_id = own in ids and not is_seeded_id(event.event_id)
        if same_id or kind in found or UNTYPED in found or (found and kind == UNTYPED):
            continue
        found.add(kind)
        ids.add(own)
        if oldest is None or (event.timestamp, event.member()) > oldest:
            new.append(event)
    return new
