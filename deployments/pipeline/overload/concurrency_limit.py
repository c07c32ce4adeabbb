"""How many requests of one kind an ingress replica takes at a time; past it the answer is 503, at once.

The HTTP fast path refuses a request when its head arrives, and takes a slot once its body is there; every other request
(a handle call, HTTP through uvicorn alone) takes one when its operation begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import Overloaded


class LimitsConfig(BaseModel):
    """Requests under way at a time in an ingress replica, past which the answer is 503. (Those of recommend and rank
    follow from `batcher` and `pipeline.queue_share`.)"""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    similar: int = Field(64, ge=1)
    """Similar-item requests."""
    events: int = Field(512, ge=1)
    """Requests that record events."""
    events_at_a_time: int = Field(16, ge=1)
    """Event requests that are processed at a time; the others wait, in order of arrival."""


slot_taken: ContextVar[bool] = ContextVar("slot_taken", default=False)
"""Whether the fast path has taken a slot for the request of this context."""

LARGEST_CUT, LARGEST_RISE = 0.5, 1.25
"""The factors by which an adaptive limit changes at most in one step."""


class ConcurrencyLimit:
    """At most `limit` requests under way. Belongs to one event loop.

    `reason`: the label of rayfunnel_shed_total; `requests`, `remedy`: for the error's text.
    """

    def __init__(self, limit: int, reason: str, requests: str, remedy: str) -> None:
        self.limit = limit
        self.reason = reason
        self._requests, self._remedy = requests, remedy
        self.under_way = 0

    @property
    def full(self) -> bool:
        """Whether the next request is refused."""
        return self.under_way >= self.limit

    def refuse(self) -> Overloaded:
        """The error for a refused request."""
        return Overloaded(f"{self.under_way} {self._requests} are under way already; retry later, or {self._remedy}")

    def enter(self) -> None:
        """Takes a slot, whether there is one or not; check `full` first."""
        self.under_way += 1

    def leave(self) -> None:
        """Gives the slot back."""
        self.under_way -= 1

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Holds a slot for the request of this context, unless the fast path has taken one for it.

        Raises:
            Overloaded: no slot is free.
        """
        if slot_taken.get():
            yield
            return
        if self.full:
            raise self.refuse()
        self.enter()
        try:
            yield
        finally:
            self.leave()


class AdaptiveConcurrencyLimit(ConcurrencyLimit):
    """A limit that follows the queueing time it leads to: the largest at which requests wait for `share` of their time.

    By Little's law the waiting time is the number of requests under way over their rate. So the limit is corrected by
    the ratio of the wanted wait to the measured one, and no rate has to be known. It starts at `most` and never falls
    below `least`. Times are Unix seconds.
    """

    def __init__(self, least: int, most: int, share: float) -> None:
        super().__init__(most, "queue", "requests to recommend and rank", "add replicas")
        self._least, self._most, self._share = least, most, share
        self._changed_at = float("-inf")
        self._refused = False

    def refuse(self) -> Overloaded:
        """See `ConcurrencyLimit`. Only a limit that refuses rises."""
        self._refused = True
        return super().refuse()

    def observe_wait(self, arrived: float, now: float, allowed_s: float) -> None:
        """A request that arrived at `arrived` leaves the queue; its deadline is `allowed_s` after its arrival."""
        if arrived < self._changed_at:
            return  # it entered under the previous limit
        ratio = self._share * allowed_s / max(now - arrived, 1e-3)
        if ratio < 1 or self._refused:
            factor = min(LARGEST_RISE, max(LARGEST_CUT, ratio))
            self.limit = round(min(self._most, max(self._least, self.limit * factor)))
            self._changed_at, self._refused = now, False
