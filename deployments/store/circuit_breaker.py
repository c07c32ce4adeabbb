"""A circuit breaker: after repeated failures calls are refused at once; later one probe tests the store.

Own code because neither purgatory nor aiobreaker limits the half-open state to one probe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deployments.errors import StoreUnavailable


class CircuitBreaker:
    """Counts consecutive StoreUnavailable. For one event loop: its state changes only between awaits.

    `failures`: consecutive failures that open it. `reset_s`: time until a probe. `clock`: seconds.
    """

    def __init__(self, failures: int, reset_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._reset_s, self._clock = failures, reset_s, clock
        self._failures = 0
        self._retry_at = 0.0
        self._probing = False
        self._last = ""

    @property
    def open(self) -> bool:
        """True while calls are refused or a probe runs."""
        return self._failures >= self._limit

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Wraps one call. A cancelled call counts neither as success nor as failure.

        Raises:
            StoreUnavailable: the breaker is open; the call was not made.
        """
        probe = self.open
        if probe:
            if self._probing or self._clock() < self._retry_at:
                raise StoreUnavailable(
                    f"circuit breaker open: {self._failures} failures in a row, the last: {self._last}"
                )
            self._probing = True
        try:
            yield
            self._failures = 0
        except StoreUnavailable as failure:
            self._failures += 1
            self._last = str(failure)
            self._retry_at = self._clock() + self._reset_s
            raise
        finally:
            if probe:
                self._probing = False
