"""What a user did: one event, many users' histories as columns, and the message the stages read.

An event is stored as a *member*: its fields joined by NUL, `item_id event_id event_type weight request_id`. The
timestamp is not part of it, so that an event sent again is the same member even if the server dates it anew.
Bytes order members as (item_id, event_id), which settles ties in time: in Redis, here and in training alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from deployments.messages import PAD, Floats, HistoryBatch, Ints, Times

_FIELDS = 5


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a user did with an item. Sent again unchanged (same `event_id`, any timestamp) it is the same event.

    Raises:
        ValueError: a text holds NUL, or a number is not finite.
    """

    event_id: str
    user_id: str
    item_id: str
    event_type: str
    timestamp: float
    """Unix seconds."""
    weight: float | None = None
    """How strongly it speaks for the item; None: as its type is configured."""
    request_id: str = ""
    """The recommendation it answers, if any."""

    def __post_init__(self) -> None:
        if any("\0" in text for text in (self.event_id, self.item_id, self.event_type, self.request_id)):
            raise ValueError(f"event {self.event_id!r} holds a NUL character; remove it")
        if not math.isfinite(self.timestamp) or not math.isfinite(self.weight or 0.0):
            raise ValueError(f"event {self.event_id!r}: timestamp and weight must be finite numbers")

    def member(self) -> bytes:
        """The event as it is stored, less user and timestamp."""
        weight = "" if self.weight is None else repr(float(self.weight))
        fields = (self.item_id, self.event_id, self.event_type, weight, self.request_id)
        return "\0".join(fields).encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Histories:
    """The events of users as columns: user after user, each oldest first; E events in all, of B users."""

    user_ids: Sequence[str]
    count_B: Ints
    timestamp_E: Times
    item_ids: Sequence[str]
    event_ids: Sequence[str]
    event_types: Sequence[str]
    weights: Sequence[str]
    """As stored: a number, or empty where the type's weight applies."""
    request_ids: Sequence[str]
    rows: Sequence[int] = ()
    """Which of the users asked for these are [B]; the others' histories are as the caller holds them."""
    versions: Sequence[bytes] = ()
    """If asked for, of all users asked for: the history's version, empty where nothing was ever recorded."""
    cached: Sequence[bytes | None] = ()
    """If asked for, of all users asked for: the cache entry."""

    @classmethod
    def decode(
        cls,
        user_ids: Sequence[str],
        counts: Iterable[int],
        members: Sequence[bytes],
        timestamps: Sequence[float],
    ) -> Self:
        """From what the store holds: `counts` per user [B], then all users' members and timestamps [E]."""
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


class _Worth(dict[tuple[str, str], float]):
    """(weight as stored, event type) → weight; there are few of them in a batch, however many events."""

    def __init__(self, event_weights: Mapping[str, float], default_weight: float) -> None:
        super().__init__()
        self._event_weights, self._default = event_weights, default_weight

    def __missing__(self, kind: tuple[str, str]) -> float:
        weight, event_type = kind
        self[kind] = value = float(weight) if weight else self._event_weights.get(event_type, self._default)
        return value


class History(NamedTuple):
    """One user's events as the stages read them, oldest first; arrays of their own, and not to be written to."""

    item_H: Ints
    """Catalogue positions."""
    timestamp_H: Times
    weight_H: Floats


def read(
    histories: Histories,
    positions: Callable[[Sequence[str]], npt.NDArray[np.integer]],
    event_weights: Mapping[str, float],
    default_weight: float,
) -> list[History]:
    """The users' histories [B].

    `positions`: external item ids [E] → catalogue positions [E], -1 unknown; such events are dropped, and of
    several with the same item at the same time all but the first.
    `event_weights`: event type → weight of the events that carry none; `default_weight`: of any other type.
    """
    rows, item_E = len(histories.user_ids), positions(histories.item_ids).astype(np.int32)
    row_E = np.repeat(np.arange(rows), histories.count_B)
    known = item_E >= 0
    # One event may stand there twice: as it was posted, and as it came back with the histories of a retrained artifact.
    time_E = histories.timestamp_E
    known[1:] &= (row_E[1:] != row_E[:-1]) | (item_E[1:] != item_E[:-1]) | (time_E[1:] != time_E[:-1])
    worth = _Worth(event_weights, default_weight)
    kind_E = zip(histories.weights, histories.event_types, strict=True)
    weight_E = np.fromiter(map(worth.__getitem__, kind_E), np.float32, len(item_E))
    ends = np.bincount(row_E[known], minlength=rows).cumsum().tolist()
    item_E, time_E, weight_E = item_E[known], time_E[known], weight_E[known]
    return [
        History(item_E[start:end].copy(), time_E[start:end].copy(), weight_E[start:end].copy())
        for start, end in pairwise([0, *ends])
    ]


def history_batch(histories: Sequence[History], model_version: str, features_BF: Floats) -> HistoryBatch:
    """The message the stages read: [B, H], H = the longest history (at least 1), oldest first, padded at the end.

    `features_BF`: the users' features.
    """
    count_B = np.array([len(history.item_H) for history in histories], np.intp)
    shape = (len(histories), max(1, int(count_B.max(initial=0))))
    item_BH = np.full(shape, PAD, np.int32)
    timestamp_BH, weight_BH = np.zeros(shape, np.float64), np.zeros(shape, np.float32)
    if histories:
        mask_BH = np.arange(shape[1]) < count_B[:, None]
        item_BH[mask_BH], timestamp_BH[mask_BH], weight_BH[mask_BH] = map(np.concatenate, zip(*histories, strict=True))
    return HistoryBatch(model_version, item_BH, timestamp_BH, weight_BH, features_BF)
