"""A GPU's memory is bounded, and a batch that does not fit costs nobody an answer: it is computed in halves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch

from deployments.messages import Batch

log = logging.getLogger("rayfunnel.memory")

Method = Callable[..., Batch]

_WAIT_S = 2.0
"""A single row that does not fit waits so long at most for the calls beside it to end."""


class Limit:
    """The most rows that are computed together: at first `rows`, less once the memory has run out.

    Rows are independent (tests/contracts/), so the answers to parts are the answer. The limit does not grow again: the
    share of the memory is fixed, so what did not fit will not fit later. Calls may come from several threads.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._learned = False
        self._computing = 0
        self._changed = threading.Condition()

    def guarded(self, method: Method) -> Method:
        """`method`, which computes in parts what does not fit. One row that does not fit is tried twice.

        Raises:
            torch.OutOfMemoryError: not even one row fits.
        """

        def whole_or_halves(*batches: Batch) -> Batch:
            rows = len(batches[0])
            if self._learned and rows > self.rows:
                return halves(rows, batches)
            answer = self._attempt(method, batches)
            if answer is not None:
                return answer
            if rows > 1:
                return halves(rows, batches)
            with self._changed:
                self._changed.wait_for(lambda: self._computing == 0, _WAIT_S)
            return method(*batches)

        def halves(rows: int, batches: tuple[Batch, ...]) -> Batch:
            middle = rows // 2
            first = whole_or_halves(*(batch.take(slice(0, middle)) for batch in batches))
            second = whole_or_halves(*(batch.take(slice(middle, rows)) for batch in batches))
            return type(first).concat([first, second])

        return whole_or_halves

    def _attempt(self, method: Method, batches: tuple[Batch, ...]) -> Batch | None:
        """The answer; None if the memory ran out. What the failed call held is free by then."""
        before = _times_out_of_memory()
        alone = self._count(1) == 1
        try:
            return method(*batches)
        except torch.OutOfMemoryError:
            pass
        except RuntimeError:  # compiled code says "API call failed" of any error; torch's count says which it was
            if _times_out_of_memory() <= before:
                raise
        finally:
            alone = self._count(-1) == 0 and alone
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        self._lower(len(batches[0]), alone)
        return None

    def _count(self, change: int) -> int:
        """Calls under way now."""
        with self._changed:
            self._computing += change
            self._changed.notify_all()
            return self._computing

    def _lower(self, rows: int, alone: bool) -> None:
        """To half of what did not fit. Beside another call that may have taken the memory, to half the limit at most."""
        with self._changed:
            half = max(1, rows // 2 if alone else max(rows, self.rows) // 2)
            if self._learned and half >= self.rows:
                return
            self.rows, self._learned = min(self.rows, half), True
        log.warning("out of GPU memory with %d rows: from now on at most %d are computed together", rows, self.rows)


def _times_out_of_memory() -> int:
    if not torch.cuda.is_initialized():
        return 0
    statistics: dict[str, Any] = torch.cuda.memory_stats()
    return int(statistics.get("num_ooms", 0))
