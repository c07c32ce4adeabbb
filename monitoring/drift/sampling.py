"""A sample of what was answered, drawn off the path: a bounded buffer that never waits and counts what it drops.

`offer` is all that the path pays: it puts a whole batch into the buffer. Every few seconds `draw` takes what gathered
and chooses rows, in strata, and one per user: a window is a sample of its users, so that one busy client is not
a thousand witnesses.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

BatchT = TypeVar("BatchT")
Row = tuple[str, Hashable]
"""The stratum that a row belongs to, and its user."""


class SamplingConfig(BaseModel):
    """How much is looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    buffer_rows: int = Field(4096, ge=1, description="Answered requests kept until the next draw; more are dropped.")
    rows_per_draw: int = Field(200, ge=1, description="Requests measured per draw and ingress replica, at most.")
    every_s: float = Field(2.0, gt=0, le=60, description="Seconds between draws.")


@dataclass(frozen=True, slots=True)
class Drawn(Generic[BatchT]):
    """Rows of one batch that were chosen. `weights`: per row, 1 / the chance that it was."""

    batch: BatchT
    rows: tuple[int, ...]
    users: tuple[Hashable, ...]
    weights: tuple[float, ...]


class Sampler(Generic[BatchT]):
    """Draws from batches. `describe`: each row's stratum and user, None: never drawn; `size`: a batch's rows."""

    def __init__(
        self,
        describe: Callable[[BatchT], Sequence[Row | None]],
        size: Callable[[BatchT], int],
        config: SamplingConfig,
        seed: int | None = None,
    ) -> None:
        self._describe, self._size, self._config = describe, size, config
        self._rng = np.random.default_rng(seed)
        self._buffer: deque[BatchT] = deque()
        self._rows = 0
        self._lock = threading.Lock()
        self.seen = self.dropped = 0
        """Rows offered, and those of them for which the buffer had no room."""

    def offer(self, batch: BatchT) -> None:
        """Takes a batch, or drops it if the buffer is full. From any thread; returns at once."""
        size = self._size(batch)
        with self._lock:
            self.seen += size
            if self._rows + size > self._config.buffer_rows:
                self.dropped += size
                return
            self._buffer.append(batch)
            self._rows += size

    def draw(self) -> list[Drawn[BatchT]]:
        """Empties the buffer and chooses at most `rows_per_draw` rows.

        Each user has one row, any of theirs with equal chance. The places are shared out among strata in proportion to
        their users, but a small stratum gets an equal share of them if it can fill it.
        """
        with self._lock:
            batches, self._buffer, self._rows = self._buffer, deque(), 0
        rows = [(b, r, row) for b, batch in enumerate(batches) for r, row in enumerate(self._describe(batch)) if row]
        users: dict[Hashable, tuple[int, int, str]] = {}
        for at in self._rng.permutation(len(rows)).tolist():
            b, r, (stratum, user) = rows[at]
            users.setdefault(user, (b, r, stratum))
        strata: dict[str, list[Hashable]] = {}
        for user, (_, _, stratum) in users.items():  # in the order of the permutation
            strata.setdefault(stratum, []).append(user)
        places = shared_out({name: len(members) for name, members in strata.items()}, self._config.rows_per_draw)
        chosen: dict[int, list[tuple[int, Hashable, float]]] = {}
        for name, members in strata.items():
            for user in members[: places[name]]:
                b, r, _ = users[user]
                chosen.setdefault(b, []).append((r, user, len(members) / places[name]))
        drawn = []
        for b, picks in sorted(chosen.items()):
            of_rows, of_users, weights = zip(*sorted(picks, key=lambda pick: pick[0]), strict=True)
            drawn.append(Drawn(batches[b], of_rows, of_users, weights))
        return drawn


def shared_out(sizes: dict[str, int], places: int) -> dict[str, int]:
    """How many of `places` each stratum gets, none more than it can fill: the small ones an equal share, what these
    leave goes to the others in proportion to their size."""
    got: dict[str, int] = {}
    left, waiting = places, dict(sorted(sizes.items(), key=lambda entry: entry[1]))
    while waiting:
        name, size = next(iter(waiting.items()))
        if size > left // (2 * len(waiting)) and len(waiting) > 1:
            break
        got[name] = min(size, left)
        left -= got[name]
        del waiting[name]
    total = sum(waiting.values())
    for name, size in waiting.items():
        got[name] = min(size, max(1, int(left * size / total)))
    return got
