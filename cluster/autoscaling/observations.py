"""The policy's input: the counters that replicas report, and their differences. Plain values; imports nothing of Ray.

Counters only grow while a replica lives, so a lost report loses no counts: the next difference spans the gap. The names
of `Counters` are those that deployments/pipeline/replica_stats.py reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from operator import sub
from typing import NamedTuple

MAX_PER_S = 1e5
"""Arrivals per second and replica past which a report is invalid."""
MAX_SLOTS = 256
"""The most batches that a replica computes at a time."""
OUTLIER_RATIO = 4.0
"""A rate of so many times the replica's highest so far is an outlier, which counts once the next report confirms it."""
OUTLIER_FROM_PER_S = 200.0
"""Requests/s; a lower rate is never an outlier."""
_FORGET_S = 60.0
"""A replica without a report for so long is dropped."""


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
    """One replica's report at `time` (Unix seconds, its own clock). `queued`: requests in its queue."""

    time: float
    counters: Counters
    queued: float = 0.0


@dataclass(frozen=True, slots=True)
class StageObservation:
    """One stage now: `ready` replicas, and the `target`. `ongoing`: its requests, queued or computed."""

    ready: int
    target: int
    reports: Mapping[str, Report] = field(default_factory=dict)
    ongoing: float = 0.0


@dataclass(frozen=True, slots=True)
class Observation:
    """The graph at `now` (Unix seconds). `root`: reports of the ingress replicas, where requests arrive; `queued`:
    requests queued at the ingress, by the stage they wait for."""

    now: float
    root: Mapping[str, Report]
    stages: Mapping[str, StageObservation]
    queued: Mapping[str, float] = field(default_factory=dict)


class Difference(NamedTuple):
    """Counters of one replica between two reports, `start` and `end` in Unix seconds."""

    start: float
    end: float
    counters: Counters

    @property
    def rate(self) -> float:
        """Requests per second."""
        return max(self.counters.arrivals, self.counters.items) / (self.end - self.start)

    @property
    def plausible(self) -> bool:
        """Whether no counter falls and no limit is exceeded."""
        return (
            min(self.counters) >= 0
            and self.rate <= MAX_PER_S
            and self.counters.busy_s <= MAX_SLOTS * (self.end - self.start)
        )


class Differences:
    """Differences of one stage's reports. A counter that restarts begins anew; invalid reports are left out."""

    def __init__(self) -> None:
        self._last: dict[str, Report] = {}
        self._highest: dict[str, float] = {}
        self._unconfirmed: dict[str, Report] = {}

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
                if (change := _plausible(last, report, seconds, highest, now)) is not None:  # the usual, fast case
                    found.append(Difference(last.time, report.time, change))
                    self._highest[name] = max(change.arrivals / seconds, change.items / seconds, 0.99 * highest)
                    self._last[name] = report
                    if self._unconfirmed:
                        self._unconfirmed.pop(name, None)
                    continue
            if not _valid(report, now):
                continue
            if last is not None:
                difference = self._confirmed(name, last, report)
                if difference is None:
                    self._unconfirmed.setdefault(name, report)
                    continue
                found.append(difference)
                self._highest[name] = max(difference.rate, 0.99 * self._highest.get(name, 0.0))
            self._unconfirmed.pop(name, None)
            self._last[name] = report
        if len(self._last) > len(reports):
            for name in [n for n, report in self._last.items() if n not in reports and now - report.time > _FORGET_S]:
                del self._last[name]
                self._highest.pop(name, None)
                self._unconfirmed.pop(name, None)
        return found

    def _confirmed(self, name: str, last: Report, report: Report) -> Difference | None:
        """The difference to `report`; None: an outlier that the next report must confirm."""
        unconfirmed = self._unconfirmed.get(name)
        if unconfirmed is None or report.time <= unconfirmed.time:
            return None
        not_outlier = max(OUTLIER_FROM_PER_S, OUTLIER_RATIO * self._highest.get(name, 0.0))
        change = _difference(last, report)
        since = _difference(unconfirmed, report)
        if since.plausible and since.rate <= not_outlier:
            return since  # a restart: it counts from another level since
        if change.plausible and since.plausible:
            return change  # the same twice in a row: confirmed
        del self._unconfirmed[name]
        return None

    def latest(self, now: float) -> float:
        """Time up to which all replicas that report have reported; `now` if none does."""
        return min((report.time for report in self._last.values() if now - report.time < 3.0), default=now)


def queued(reports: Mapping[str, Report]) -> float:
    """Queued requests of all replicas; invalid values count as 0."""
    return sum(report.queued for report in reports.values() if isfinite(report.queued) and 0 <= report.queued < 1e6)


def _plausible(last: Report, report: Report, seconds: float, highest: float, now: float) -> Counters | None:
    """The change since `last`; None if it needs a closer look."""
    change = tuple(map(sub, report.counters, last.counters))
    most = min(MAX_PER_S, max(OUTLIER_FROM_PER_S, OUTLIER_RATIO * highest)) * seconds
    if (
        min(change) >= 0
        and isfinite(sum(change))
        and change[0] <= most
        and change[6] <= most
        and max(change) <= MAX_PER_S * seconds
        and change[4] <= MAX_SLOTS * seconds
        and now - 600 < report.time < now + 5
    ):
        return Counters._make(change)
    return None


def _difference(earlier: Report, later: Report) -> Difference:
    return Difference(earlier.time, later.time, Counters._make(map(sub, later.counters, earlier.counters)))


def _valid(report: Report, now: float) -> bool:
    total = sum(report.counters)  # not finite if one of them is not
    return (
        isfinite(total)
        and isfinite(report.time)
        and min(report.counters) >= 0
        and max(report.counters) < 1e15
        and now - 600 < report.time < now + 5
    )
