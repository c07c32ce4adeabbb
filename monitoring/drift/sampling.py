"""Draws a stratified sample of answered requests from a bounded buffer that never blocks and counts what it drops.

`offer` is the only cost on the request path: it appends a whole batch to the buffer. Every few seconds `draw` empties
the buffer and chooses rows per stratum, one per user: otherwise a client with many requests would dominate the window.
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
StratumAndUser = tuple[str, Hashable]
"""The stratum of a row, and its user."""


class SamplingConfig(BaseModel):
    """Size and frequency of the samples."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    buffer_rows: int = Field(4096, ge=1)
    """Answered requests kept until the next draw; more are dropped."""
    rows_per_draw: int = Field(200, ge=1)
    """Requests measured per draw and ingress replica, at most."""
    every_s: float = Field(2.0, gt=0, le=60)
    """Seconds between draws."""


@dataclass(frozen=True, slots=True)
class DrawnRows(Generic[BatchT]):
    """The rows that were drawn from one batch. `weights`: per row, 1 / the probability of its being drawn."""

    batch: BatchT
    rows: tuple[int, ...]
    users: tuple[Hashable, ...]
    weights: tuple[float, ...]


class Sampler(Generic[BatchT]):
    """Draws rows from batches. `describe`: stratum and user per row, None: never drawn; `size`: rows of a batch."""

    def __init__(
        self,
        describe: Callable[[BatchT], Sequence[StratumAndUser | None]],
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
        """Rows offered, and rows dropped because the buffer was full."""

    def offer(self, batch: BatchT) -> None:
        """Appends a batch, or drops it if the buffer is full. Thread-safe; does not block."""
        size = self._size(batch)
        with self._lock:
            self.seen += size
            if self._rows + size > self._config.buffer_rows:
                self.dropped += size
                return
            self._buffer.append(batch)
            self._rows += size

    def draw(self) -> list[DrawnRows[BatchT]]:
        """Empties the buffer and chooses at most `rows_per_draw` rows.

        Each user has one row, any of theirs with equal probability. See `allocate` for the rows per stratum.
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
        quotas = allocate({name: len(members) for name, members in strata.items()}, self._config.rows_per_draw)
        chosen: dict[int, list[tuple[int, Hashable, float]]] = {}
        for name, members in strata.items():
            for user in members[: quotas[name]]:
                b, r, _ = users[user]
                chosen.setdefault(b, []).append((r, user, len(members) / quotas[name]))
        drawn: list[DrawnRows[BatchT]] = []
        for b, picks in sorted(chosen.items()):
            of_rows, of_users, weights = zip(*sorted(picks, key=lambda pick: pick[0]), strict=True)
            drawn.append(DrawnRows(batches[b], of_rows, of_users, weights))
        return drawn


def allocate(sizes: dict[str, int], total: int) -> dict[str, int]:
    """Rows per stratum, about `total` in all and at most the stratum's size. Small strata get an equal share; the rest
    goes to the others in proportion to their size."""
    quotas: dict[str, int] = {}
    left, open_strata = total, dict(sorted(sizes.items(), key=lambda entry: entry[1]))
    while open_strata:
        name, size = next(iter(open_strata.items()))
        if size > left // (2 * len(open_strata)) and len(open_strata) > 1:
            break
        quotas[name] = min(size, left)
        left -= quotas[name]
        del open_strata[name]
    open_size = sum(open_strata.values())
    for name, size in open_strata.items():
        quotas[name] = min(size, max(1, int(left * size / open_size)))
    return quotas
