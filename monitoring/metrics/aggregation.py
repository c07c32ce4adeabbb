"""Adds up the counters of all replicas. Pure arithmetic, without clock or network; `DurableAggregator`
(deployments/telemetry) keeps its state in the store, and the deployment `MetricsHub` runs that.

The totals are the sum of the last snapshots of all replicas that ever ran. Those of ended replicas are folded into one
set of counters, so that neither series nor memory grow with churn. Snapshots are cumulative: a duplicate, a late or an
out-of-order one changes nothing, and the next one makes up for a lost one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from monitoring.metrics import declarations as m
from monitoring.metrics.snapshots import (
    OF_SAMPLE,
    ApplicationTotals,
    ReplicaSnapshot,
    Series,
    SeriesValues,
    add,
    series,
)

MAX_FOLDED_IDS = 1000
"""Ids of folded replicas that are kept, the newest, so that a late snapshot is not counted again."""


@dataclass(slots=True)
class _Received:
    snapshot: ReplicaSnapshot
    at: float | None
    """Seconds on the caller's clock; None: restored from the state of an earlier hub."""


class MetricsAggregator:
    """`fresh_s`: how long after its last snapshot a replica counts as ready; later its gauges are left out.
    `fold_after_s`: silence after which an ended replica is folded. `now`: seconds on the caller's clock.
    Nothing is folded before `restore`.
    """

    def __init__(self, fresh_s: float, fold_after_s: float) -> None:
        self._fresh_s, self._fold_after_s = fresh_s, fold_after_s
        self._last: dict[str, _Received] = {}
        self._early: dict[tuple[str, int], _Received] | None = {}
        """The last snapshot of each process before `restore`, which reports it then; None: after `restore`."""
        self._fold: SeriesValues = {}
        self._folded: dict[str, int] = {}
        self._folded_count = 0

    def report(self, snapshot: ReplicaSnapshot, now: float) -> None:
        """Takes a snapshot. A newer epoch under the same replica id: the former process has ended."""
        if self._early is not None:
            before = self._early.get((snapshot.replica, snapshot.epoch))
            if before is None or before.snapshot.sequence < snapshot.sequence:
                self._early[snapshot.replica, snapshot.epoch] = _Received(snapshot, now)
            return
        last = self._last.get(snapshot.replica)
        if self._folded.get(snapshot.replica, -1) >= snapshot.epoch:
            return  # late: the process has been folded
        if last is not None:
            if (snapshot.epoch, snapshot.sequence) < (last.snapshot.epoch, last.snapshot.sequence):
                return
            if snapshot.epoch > last.snapshot.epoch:
                self._retire(snapshot.replica)
        self._last[snapshot.replica] = _Received(snapshot, now)

    def fold_ended(self, alive: set[str], now: float) -> None:
        """Folds every replica that is not in `alive` and has been silent for `fold_after_s`. A replica that reports is
        alive, even if a recovering controller does not list it.
        """
        for replica, received in list(self._last.items()):
            received.at = now - self._fresh_s if received.at is None else received.at
            if replica not in alive and now - received.at > self._fold_after_s:
                self._retire(replica)

    def _retire(self, replica: str) -> None:
        snapshot = self._last.pop(replica).snapshot
        add(self._fold, snapshot.counters)
        self._folded.pop(replica, None)
        self._folded[replica] = snapshot.epoch
        self._folded_count += 1
        while len(self._folded) > MAX_FOLDED_IDS:
            del self._folded[next(iter(self._folded))]

    def totals(self, now: float, wanted: Mapping[str, int]) -> ApplicationTotals:
        """The totals. `wanted`: target number of replicas per deployment."""
        counters = dict(self._fold)
        received = [*self._last.values(), *(self._early or {}).values()]
        for one in received:
            add(counters, one.snapshot.counters)
        counters[series(m.FOLDED)] = float(self._folded_count)
        fresh = [(one.snapshot, now - one.at) for one in received if one.at is not None]
        fresh = [(snapshot, age_s) for snapshot, age_s in fresh if age_s <= self._fresh_s]
        gauges = merge_gauges([snapshot for snapshot, _ in fresh])
        for name in {*wanted, *(snapshot.deployment for snapshot, _ in fresh)}:
            ages_s = [age_s for snapshot, age_s in fresh if snapshot.deployment == name]
            gauges[series(m.READY, deployment=name)] = float(len(ages_s))
            if ages_s:
                gauges[series(m.AGE, deployment=name)] = max(ages_s)
        for name, count in wanted.items():
            gauges[series(m.WANTED, deployment=name)] = float(count)
        return ApplicationTotals(counters, gauges)

    def state(self) -> bytes:
        """The state, for `restore` of a later hub."""
        return orjson.dumps(
            {
                "fold": _rows(self._fold),
                "folded": self._folded,
                "folded_count": self._folded_count,
                "heard": [_packed(received.snapshot) for received in self._last.values()],
            }
        )

    def restore(self, state: bytes) -> None:
        """Takes over the state of an earlier hub (empty: there is none), then reports the snapshots received meanwhile.

        Raises:
            ValueError: `state` is not a state.
        """
        if state:
            try:
                read = orjson.loads(state)
                fold, folded = _values(read["fold"]), {str(k): int(v) for k, v in read["folded"].items()}
                count, last = int(read["folded_count"]), [_unpacked(packed) for packed in read["heard"]]
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"not a hub's state: {error!r}") from error
            self._fold, self._folded, self._folded_count = fold, folded, count
            self._last = {snapshot.replica: _Received(snapshot, None) for snapshot in last}
        early, self._early = self._early, None
        for _, received in sorted((early or {}).items()):
            self.report(received.snapshot, received.at or 0.0)


def merge_gauges(snapshots: list[ReplicaSnapshot]) -> SeriesValues:
    """Merges the gauges of several replicas as their declarations say."""
    gauges: SeriesValues = {}
    last_answer = series(m.DRIFT_LAST_ANSWER)
    latest = max(snapshots, key=lambda snapshot: snapshot.gauges.get(last_answer, 0.0), default=None)
    for snapshot in snapshots:
        for key, value in snapshot.gauges.items():
            metric = OF_SAMPLE.get(key[0])
            if metric is None:
                continue
            if metric.merge == "sum":
                gauges[key] = gauges.get(key, 0.0) + value
            elif metric.merge == "max":
                gauges[key] = max(gauges.get(key, value), value)
            elif metric.merge == "latest" and snapshot is latest:
                gauges[key] = value
    return gauges


def totals_without_hub(
    own: ReplicaSnapshot, before: tuple[ApplicationTotals, ReplicaSnapshot] | None
) -> ApplicationTotals:
    """The totals that a replica shows if the hub does not answer: its `own` snapshot, or, so that no counter falls, the
    last totals of the hub plus the increase of its own counters since. `before`: these totals and its snapshot then.
    """
    counters = dict(own.counters)
    if before is not None:
        totals, then = before
        counters = dict(totals.counters)
        for key, value in own.counters.items():
            counters[key] = counters.get(key, 0.0) + value - then.counters.get(key, 0.0)
    return ApplicationTotals(counters, merge_gauges([own]) | {series(m.HUB_UP): 0.0})


def _rows(values: SeriesValues) -> list[tuple[str, dict[str, str], float]]:
    return [(name, dict(labels), value) for (name, labels), value in values.items()]


def _values(rows: list[tuple[str, dict[str, str], float]]) -> SeriesValues:
    found: SeriesValues = {}
    for name, labels, value in rows:
        key: Series = (name, tuple(sorted(labels.items())))
        found[key] = value
    return found


def _packed(snapshot: ReplicaSnapshot) -> dict[str, object]:
    return {
        "replica": snapshot.replica,
        "epoch": snapshot.epoch,
        "sequence": snapshot.sequence,
        "deployment": snapshot.deployment,
        "counters": _rows(snapshot.counters),
    }


def _unpacked(packed: dict[str, object]) -> ReplicaSnapshot:
    fields = {**packed, "counters": _values(packed["counters"]), "gauges": {}}  # type: ignore[arg-type]
    return ReplicaSnapshot(**fields)  # type: ignore[arg-type]
