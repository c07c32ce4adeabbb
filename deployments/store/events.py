"""The format of events: one event, the stored histories of users as columns, and the message that the stages read.

An event is stored as a *member*: its fields joined by NUL, `item_id event_id event_type weight request_id`. The
timestamp is not part of the member, so an event sent again is the same member even with a new timestamp. The byte order
of members is (item_id, event_id): it orders events with equal timestamps in Redis, here and in training alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from deployments.messages import PAD, Floats, HistoryBatch, Ints, Shorts, Times
from deployments.store.event_types import UNTYPED, EventsConfig, key_of

_FIELDS = 5

MOST_AHEAD_S = 60.0
"""An event dated more than this ahead is taken as of now; in training data, as of the newest other event."""


@dataclass(frozen=True, slots=True)
class Event:
    """One action of a user on an item. An event with equal fields but another timestamp is the same event.

    Raises:
        ValueError: a text contains NUL, or a number is not finite.
    """

    event_id: str
    user_id: str
    item_id: str
    event_type: str
    timestamp: float
    """Unix seconds."""
    weight: float | None = None
    """> 0: for the item, < 0: against it; None: the weight configured for the event type."""
    request_id: str = ""
    """Id of the recommendation that the event responds to; empty: none."""

    def __post_init__(self) -> None:
        if any("\0" in text for text in (self.event_id, self.item_id, self.event_type, self.request_id)):
            raise ValueError(f"event {self.event_id!r} contains a NUL character; remove it")
        if not math.isfinite(self.timestamp) or not math.isfinite(self.weight or 0.0):
            raise ValueError(f"event {self.event_id!r}: timestamp and weight must be finite numbers")

    def member(self) -> bytes:
        """The event as stored, without user and timestamp."""
        weight = "" if self.weight is None else repr(float(self.weight))
        fields = (self.item_id, self.event_id, self.event_type, weight, self.request_id)
        return "\0".join(fields).encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Histories:
    """The stored events of B users as columns: user after user, each oldest first; E events in all."""

    user_ids: Sequence[str]
    count_B: Ints
    timestamp_E: Times
    item_ids: Sequence[str]
    event_ids: Sequence[str]
    event_types: Sequence[str]
    weights: Sequence[str]
    """As stored: a number, or empty if the weight of the type applies."""
    request_ids: Sequence[str]
    rows: Sequence[int] = ()
    """Positions [B] of these users among the requested users; the caller has the other histories already."""
    versions: Sequence[bytes] = ()
    """If requested: version of the history of each requested user, empty if no event was ever recorded."""
    cached: Sequence[bytes | None] = ()
    """If requested: cache entry for each requested user, None: there is none."""

    @classmethod
    def decode(
        cls,
        user_ids: Sequence[str],
        counts: Iterable[int],
        members: Sequence[bytes],
        timestamps: Sequence[float],
    ) -> Self:
        """From stored data: events per user (`counts` [B]), and members and timestamps of all users [E]."""
        text = b"\0".join(members).decode("utf-8", "surrogatepass").split("\0") if members else []
        item_ids, event_ids, event_types, weights, request_ids = (text[i::_FIELDS] for i in range(_FIELDS))
        return cls(
            user_ids=user_ids,
            count_B=np.fromiter(counts, np.int32, len(user_ids)),
            timestamp_E=np.array(timestamps, np.float64),
            item_ids=item_ids,
            event_ids=event_ids,
            event_types=event_types,
            weights=weights,
            request_ids=request_ids,
        )

    def events(self, row: int) -> list[Event]:
        """One user's events, oldest first."""
        start = int(self.count_B[:row].sum())
        return [
            Event(
                event_id=self.event_ids[e],
                user_id=self.user_ids[row],
                item_id=self.item_ids[e],
                event_type=self.event_types[e],
                timestamp=float(self.timestamp_E[e]),
                weight=float(self.weights[e]) if self.weights[e] else None,
                request_id=self.request_ids[e],
            )
            for e in range(start, start + int(self.count_B[row]))
        ]


class _Meaning(dict[tuple[str, str], tuple[float, float, float, float]]):
    """(weight as stored, event type) → (strength, `seen_s`, position of the type in `types`, number of the type),
    computed once: a batch has many events but few such pairs. UNTYPED has the number 0."""

    def __init__(self, events: EventsConfig, types: Sequence[str]) -> None:
        super().__init__()
        self._events = events
        self._position = {name: position for position, name in enumerate(types)}
        self._numbers = {UNTYPED: 0}

    def __missing__(self, kind: tuple[str, str]) -> tuple[float, float, float, float]:
        weight, name = kind
        event_type, key = self._events.of(name), key_of(name)
        strength = float(weight) if weight else event_type.strength
        number = self._numbers.setdefault(key, len(self._numbers))
        self[kind] = value = (strength, self._events.seen_s(name, strength), self._position.get(key, PAD), number)
        return value


class UserHistory(NamedTuple):
    """One user's decoded events, oldest first. The arrays are copies, and must not be written to."""

    item_H: Ints
    """Catalogue positions."""
    timestamp_H: Times
    weight_H: Floats
    seen_until_H: Times
    """Unix seconds until which the event takes its item out of answers: -inf never, inf always."""
    type_H: Shorts
    """Positions in the artifact's event types, -1: another."""

    @classmethod
    def empty(cls) -> Self:
        """Of a user without events."""
        numbers = np.empty(0, np.float64)
        return cls(np.empty(0, np.int32), numbers, np.empty(0, np.float32), numbers, np.empty(0, np.int16))


def user_histories(
    histories: Histories,
    positions: Callable[[Sequence[str]], npt.NDArray[np.integer]],
    config: EventsConfig,
    types: Sequence[str] = (),
) -> list[UserHistory]:
    """The decoded history of each user [B].

    `positions`: external item ids [E] → catalogue positions [E], -1: unknown. Events of unknown items are dropped; of
    events on the same item at the same time, and of the same type or one of them UNTYPED, only the first is kept.
    `types`: the artifact's event types.
    """
    rows, item_E = len(histories.user_ids), positions(histories.item_ids).astype(np.int32)
    row_E = np.repeat(np.arange(rows), histories.count_B)
    kept_E = item_E >= 0
    time_E = histories.timestamp_E
    kind_E = zip(histories.weights, histories.event_types, strict=True)
    meanings = map(_Meaning(config, types).__getitem__, kind_E)
    meaning_E4: Times = np.fromiter(meanings, np.dtype((np.float64, 4)), len(item_E))
    until_E = seen_until(time_E, meaning_E4[:, 1])
    number_E = meaning_E4[:, 3]
    # An event may be stored twice: as it was posted, and with the histories of an artifact trained on it.
    kept_E[1:] &= (
        (row_E[1:] != row_E[:-1])
        | (item_E[1:] != item_E[:-1])
        | (time_E[1:] != time_E[:-1])
        | ((number_E[1:] != number_E[:-1]) & (number_E[1:] * number_E[:-1] != 0))
    )
    ends = np.bincount(row_E[kept_E], minlength=rows).cumsum().tolist()
    all_users = UserHistory(
        item_E[kept_E],
        time_E[kept_E],
        meaning_E4[kept_E, 0].astype(np.float32),
        until_E[kept_E],
        meaning_E4[kept_E, 2].astype(np.int16),
    )
    return [
        UserHistory._make(column_E[start:end].copy() for column_E in all_users) for start, end in pairwise([0, *ends])
    ]


def seen_until(timestamp_E: Times, seen_s_E: Times) -> Times:
    """Unix seconds [E] until which events take their items out of answers: -inf never, inf always."""
    return np.where(seen_s_E > 0, timestamp_E + seen_s_E, -np.inf)


def history_batch(
    histories: Sequence[UserHistory], model_version: str, features_BF: Floats, now: float, typed: bool = False
) -> HistoryBatch:
    """The message that the stages read: [B, H], H = longest history (at least 1), oldest first, padded at the end.

    `features_BF`: features of the users; `now`: Unix seconds, for what counts as seen; `typed`: whether the artifact
    has event types, so whether to fill in types and ages.
    """
    count_B = np.array([len(history.item_H) for history in histories], np.intp)
    shape = (len(histories), max(1, int(count_B.max(initial=0))))
    item_BH = np.full(shape, PAD, np.int32)
    timestamp_BH, weight_BH, seen_BH = (
        np.zeros(shape, np.float64),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.bool_),
    )
    type_BY = np.full(shape if typed else (shape[0], 0), PAD, np.int16)
    age_BY = np.zeros(type_BY.shape, np.float32)
    if histories:
        mask_BH = np.arange(shape[1]) < count_B[:, None]
        columns = map(np.concatenate, zip(*histories, strict=True))
        item_BH[mask_BH], timestamp_BH[mask_BH], weight_BH[mask_BH], seen_until_E, type_E = columns
        seen_BH[mask_BH] = seen_until_E > now
        if typed:
            type_BY[mask_BH] = type_E
            age_BY[mask_BH] = now - timestamp_BH[mask_BH]
    return HistoryBatch(model_version, item_BH, timestamp_BH, weight_BH, seen_BH, type_BY, age_BY, features_BF)
