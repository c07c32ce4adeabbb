"""How many requests an ingress replica lets in: so many that they wait for a share of their time and no longer.

How long a bound lets requests wait shows in those that came since it was set: the wait is the number of requests over
their rate (Little's law). So the bound follows from its own effect, and no rate has to be known.
"""

from __future__ import annotations

_FEWER, _MORE = 0.5, 1.25
"""Most that the bound changes by at a time."""


class ConcurrencyLimit:
    """`limit`: requests under way at a time, at first `most`, never below `least`; `share`: of its time that a request
    may wait. Of one ingress replica. Times in Unix seconds.
    """

    def __init__(self, least: int, most: int, share: float) -> None:
        self._least, self._most, self._share = least, most, share
        self.limit = most
        self._set_at = float("-inf")
        self._refused = False

    def refused(self) -> None:
        """A request was not let in: the bound matters."""
        self._refused = True

    def waited(self, arrived: float, now: float, allowed_s: float) -> None:
        """Work on a request that came at `arrived` begins; it has `allowed_s` from then until its deadline."""
        if arrived < self._set_at:
            return
        fitting = self._share * allowed_s / max(now - arrived, 1e-3)
        if fitting < 1 or self._refused:
            self.limit = round(min(self._most, max(self._least, self.limit * min(_MORE, max(_FEWER, fitting)))))
            self._set_at, self._refused = now, False
