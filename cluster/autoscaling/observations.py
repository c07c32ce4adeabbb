"""What the policy sees: counters that replicas report, and their differences. Plain values; knows nothing of Ray.

Counters only grow while a replica lives, so a lost report costs nothing: the next difference spans the gap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from operator import sub
from typing import NamedTuple

MOST_PER_S = 1e5
"""Arrivals per second past which a replica's report is garbage."""
MOST_SLOTS = 256
"""Batches that a replica computes at a time, at most."""
SURPRISE = 4.0
"""A rate this many times the replica's highest so far is believed only when the next report confirms it."""
SURPRISING_PER_S = 200.0
"""Rates below it never surprise."""
_FORGET_S = 60.0
"""A replica that has been silent for so long is forgotten."""


class Counters(NamedTuple):
    """Totals since the replica started. `busy_s`: seconds its slots have computed; `items`: requests in `batches`."""

    arrivals: float = 0.0
    completions: float = 0.0
    expired: float = 0.0
    shed: float = 0.0
    busy_s: float = 0.0
    batches: float = 0.0
    items: float = 0.0


class Report(NamedTuple):
    """What one replica said at `time` (Unix seconds, its own clock). `queued`: requests that wait there."""

    time: float
    counters: Counters
    queued: float = 0.0


@dataclass(frozen=True, slots=True)
class StageObservation:
    """One stage now: `ready` replicas of `target` wanted. `ongoing`: requests that wait or are computed in all."""

    ready: int
    target: int
    reports: Mapping[str, Report] = field(default_factory=dict)
    ongoing: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """The graph at `now` (Unix seconds). `root`: reports of the ingress replicas, where requests arrive; `queued`:
    those that wait there, by the stage they wait for."""

    now: float
    root: Mapping[str, Report]
    stages: Mapping[str, StageObservation]
    queued: Mapping[str, float] = field(default_factory=dict)


class Difference(NamedTuple):
    """What a replica did between two reports."""

    began: float
    ended: float
    counters: Counters

    @property
    def rate(self) -> float:
        """Requests per second."""
        return max(self.counters.arrivals, self.counters.items) / (self.ended - self.began)

    @property
    def possible(self) -> bool:
        """Whether a replica can have done this."""
        return (
            min(self.counters) >= 0
            and self.rate <= MOST_PER_S
            and self.counters.busy_s <= MOST_SLOTS * (self.ended - self.began)
        )


class Differences:
    """Differences of one stage's reports. A restarted counter begins anew; garbage is left out."""

    def __init__(self) -> None:
        self._last: dict[str, Report] = {}
        self._highest: dict[str, float] = {}
        self._doubted: dict[str, Report] = {}

    def update(self, reports: Mapping[str, Report], now: float) -> list[Difference]:
        """The differences since the last call; a replica's first report gives none."""
        found = []
        for name, report in reports.items():
            last = self._last.get(name)
            if last is not None:
                seconds = report.time - last.time
                if seconds <= 0:
                    continue
                highest = self._highest.get(name, 0.0)
                if (change := _usual(last, report, seconds, highest, now)) is not None:  # the rule, and fast
                    found.append(Difference(last.time, report.time, change))
                    self._highest[name] = max(change.arrivals / seconds, change.items / seconds, 0.99 * highest)
                    self._last[name] = report
                    if self._doubted:
                        self._doubted.pop(name, None)
                    continue
            if not _sane(report, now):
                continue
            if last is not None:
                difference = self._believed(name, last, report)
                if difference is None:
                    self._doubted.setdefault(name, report)
                    continue
                found.append(difference)
                self._highest[name] = max(difference.rate, 0.99 * self._highest.get(name, 0.0))
            self._doubted.pop(name, None)
            self._last[name] = report
        if len(self._last) > len(reports):
            for name in [n for n, report in self._last.items() if n not in reports and now - report.time > _FORGET_S]:
                del self._last[name]
                self._highest.pop(name, None)
                self._doubted.pop(name, None)
        return found

    def _believed(self, name: str, last: Report, report: Report) -> Difference | None:
        """The difference that `report` makes; None: it is odd, and the next one must confirm it."""
        doubted = self._doubted.get(name)
        if doubted is None or report.time <= doubted.time:
            return None
        calm = max(SURPRISING_PER_S, SURPRISE * self._highest.get(name, 0.0))
        change = _difference(last, report)
        since = _difference(doubted, report)
        if since.possible and since.rate <= calm:
            return since  # counts from another level since: a restart
        if change.possible and since.possible:
            return change  # twice in a row: so it is
        del self._doubted[name]
        return None

    def latest(self, now: float) -> float:
        """Time up to which every replica that is heard of has reported; `now` if there is none."""
        return min((report.time for report in self._last.values() if now - report.time < 3.0), default=now)


def queued(reports: Mapping[str, Report]) -> float:
    """Requests that wait in all replicas; garbage counts as none."""
    return sum(report.queued for report in reports.values() if isfinite(report.queued) and 0 <= report.queued < 1e6)


def _usual(last: Report, report: Report, seconds: float, highest: float, now: float) -> Counters | None:
    """What a replica did since `last`, if nothing about it is odd."""
    change = tuple(map(sub, report.counters, last.counters))
    most = min(MOST_PER_S, max(SURPRISING_PER_S, SURPRISE * highest)) * seconds
    if (
        min(change) >= 0
        and isfinite(sum(change))
        and change[0] <= most
        and change[6] <= most
        and max(change) <= MOST_PER_S * seconds
        and change[4] <= MOST_SLOTS * seconds
        and now - 600 < report.time < now + 5
    ):
        return Counters._make(change)
    return None


def _difference(earlier: Report, later: Report) -> Difference:
    return Difference(earlier.time, later.time, Counters._make(map(sub, later.counters, earlier.counters)))


def _sane(report: Report, now: float) -> bool:
    total = sum(report.counters)  # not finite if one of them is not
    return (
        isfinite(total)
        and isfinite(report.time)
        and min(report.counters) >= 0
        and max(report.counters) < 1e15
        and now - 600 < report.time < now + 5
    )
