"""Out of GPU memory: a batch that does not fit is computed in chunks, so no request loses its answer."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from deployments.messages import Batch
from deployments.models.backends.runtime import loaded_torch

log = logging.getLogger("rayfunnel.memory")

Method = Callable[..., Batch]

_WAIT_S = 2.0
"""Longest that a single row that does not fit waits for concurrent calls to end."""


class OomGuard:
    """Limits the rows of one call: to `rows` at first, to fewer after the memory has run out. Thread-safe.

    Rows are independent (tests/contracts/), so the concatenated answers of chunks are the answer. The limit never
    grows: the share of the memory is fixed, so a batch that did not fit will not fit later.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._lowered = False
        self._failures = 0
        self._running_calls = 0
        self._changed = threading.Condition()

    def guarded(self, method: Method) -> Method:
        """`method`, computing in chunks a batch that does not fit. A single row that does not fit is tried twice.

        Raises:
            torch.OutOfMemoryError: not even one row fits.
        """

        def whole_or_chunks(*batches: Batch) -> Batch:
            rows = len(batches[0])
            if self._lowered and rows > self.rows:
                return in_chunks(rows, batches)
            answer = self._try(method, batches)
            if answer is not None:
                return answer
            if rows > 1:
                return in_chunks(rows, batches)
            with self._changed:
                self._changed.wait_for(lambda: self._running_calls == 0, _WAIT_S)
            return method(*batches)

        def in_chunks(rows: int, batches: tuple[Batch, ...]) -> Batch:
            count = max(2, -(-rows // self.rows))
            ends = [rows * chunk // count for chunk in range(count + 1)]
            answers = [
                whole_or_chunks(*(batch.take(slice(begin, end)) for batch in batches))
                for begin, end in itertools.pairwise(ends)
            ]
            return type(answers[0]).concat(answers)

        return whole_or_chunks

    def _try(self, method: Method, batches: tuple[Batch, ...]) -> Batch | None:
        """The answer; None if the memory ran out. The failed call's memory is free then."""
        alone = self._add_calls(1) == 1
        try:
            return method(*batches)
        except RuntimeError as error:
            torch = loaded_torch()
            if torch is None:
                raise
            counted = self._oom_counted(torch)
            # Compiled code reports every error as "API call failed"; torch's own counter shows whether memory ran out.
            if not (counted or isinstance(error, torch.OutOfMemoryError)):
                raise
        finally:
            alone = self._add_calls(-1) == 0 and alone
        torch.cuda.empty_cache()  # does nothing where CUDA has not started
        self._lower(len(batches[0]), alone)
        return None

    def _oom_counted(self, torch: ModuleType) -> bool:
        """Whether torch has counted a failed allocation since the last call of this method."""
        statistics: dict[str, Any] = torch.cuda.memory_stats()  # empty where CUDA has not started
        before, self._failures = self._failures, int(statistics.get("num_ooms", 0))
        return self._failures > before

    def _add_calls(self, change: int) -> int:
        """Adds `change` to the number of running calls and returns it."""
        with self._changed:
            self._running_calls += change
            self._changed.notify_all()
            return self._running_calls

    def _lower(self, rows: int, alone: bool) -> None:
        """Lowers the limit to half of `rows`; if another call ran, which may be the cause, to half the limit."""
        with self._changed:
            half = max(1, rows // 2 if alone else max(rows, self.rows) // 2)
            if self._lowered and half >= self.rows:
                return
            self.rows, self._lowered = min(self.rows, half), True
        log.warning("out of GPU memory with %d rows: from now on at most %d are computed together", rows, self.rows)
