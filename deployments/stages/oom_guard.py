"""A GPU's memory is bounded, and a batch that does not fit costs nobody an answer: it is computed in parts."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from deployments.messages import Batch
from deployments.models.backends.runtime import torch_here

log = logging.getLogger("rayfunnel.memory")

Method = Callable[..., Batch]

_WAIT_S = 2.0
"""A single row that does not fit waits so long at most for the calls beside it to end."""


class OomGuard:
    """The most rows that are computed together: at first `rows`, less once the memory has run out.

    Rows are independent (tests/contracts/), so the answers to parts are the answer. The limit does not grow again: the
    share of the memory is fixed, so what did not fit will not fit later. Calls may come from several threads.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._learned = False
        self._failures = 0
        self._computing = 0
        self._changed = threading.Condition()

    def guarded(self, method: Method) -> Method:
        """`method`, which computes in parts what does not fit. One row that does not fit is tried twice.

        Raises:
            torch.OutOfMemoryError: not even one row fits.
        """

        def whole_or_parts(*batches: Batch) -> Batch:
            rows = len(batches[0])
            if self._learned and rows > self.rows:
                return parts(rows, batches)
            answer = self._attempt(method, batches)
            if answer is not None:
                return answer
            if rows > 1:
                return parts(rows, batches)
            with self._changed:
                self._changed.wait_for(lambda: self._computing == 0, _WAIT_S)
            return method(*batches)

        def parts(rows: int, batches: tuple[Batch, ...]) -> Batch:
            count = max(2, -(-rows // self.rows))
            ends = [rows * part // count for part in range(count + 1)]
            answers = [
                whole_or_parts(*(batch.take(slice(begin, end)) for batch in batches))
                for begin, end in itertools.pairwise(ends)
            ]
            return type(answers[0]).concat(answers)

        return whole_or_parts

    def _attempt(self, method: Method, batches: tuple[Batch, ...]) -> Batch | None:
        """The answer; None if the memory ran out. What the failed call held is free by then."""
        alone = self._count(1) == 1
        try:
            return method(*batches)
        except RuntimeError as error:
            torch = torch_here()
            if torch is None:
                raise
            counted = self._counted_again(torch)
            # Compiled code says "API call failed" of any error; torch's own count says whether it was this one.
            if not (counted or isinstance(error, torch.OutOfMemoryError)):
                raise
        finally:
            alone = self._count(-1) == 0 and alone
        torch.cuda.empty_cache()  # does nothing where CUDA has not started
        self._lower(len(batches[0]), alone)
        return None

    def _counted_again(self, torch: ModuleType) -> bool:
        """Whether torch has counted an allocation that failed since this was asked last."""
        statistics: dict[str, Any] = torch.cuda.memory_stats()  # empty where CUDA has not started
        before, self._failures = self._failures, int(statistics.get("num_ooms", 0))
        return self._failures > before

    def _count(self, change: int) -> int:
        """Calls under way now."""
        with self._changed:
            self._computing += change
            self._changed.notify_all()
            return self._computing

    def _lower(self, rows: int, alone: bool) -> None:
        """To half of what did not fit. Beside another call, whose fault it may be: to half the limit."""
        with self._changed:
            half = max(1, rows // 2 if alone else max(rows, self.rows) // 2)
            if self._learned and half >= self.rows:
                return
            self.rows, self._learned = min(self.rows, half), True
        log.warning("out of GPU memory with %d rows: from now on at most %d are computed together", rows, self.rows)
