"""Adds up what all replicas counted. Pure: no clock, no network; `deployments.telemetry.hub_keeper` is its shell.

The totals are the sum of the last snapshot of every replica there ever was. Those of replicas that have ended are
folded into one set of counts, so that neither series nor memory grow with churn. Snapshots are cumulative: one that
comes twice, late or out of order changes nothing, and one that is lost is made good by the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from monitoring.metrics import declarations as m
from monitoring.metrics.snapshots import OF_SAMPLE, Series, Snapshot, Totals, Values, add, series

REMEMBERED = 1000
"""Replicas that ended of which the hub still knows that it has folded them; later ones push the oldest out."""


@dataclass(slots=True)
class _Heard:
    snapshot: Snapshot
    at: float | None
    """Seconds on the caller's clock; None: by another hub, before this one."""


class MetricsAggregator:
    """`fresh_s`: how long after its last snapshot a replica counts as ready; its gauges are left out afterwards.
    `fold_after_s`: how long it must have been silent to be folded. `now` is the caller's clock, seconds.
    Nothing is folded before `restore`.
    """

    def __init__(self, fresh_s: float, fold_after_s: float) -> None:
        self._fresh_s, self._fold_after_s = fresh_s, fold_after_s
        self._heard: dict[str, _Heard] = {}
        self._early: dict[tuple[str, int], _Heard] | None = {}
        """What was heard of each process before `restore`, which goes through it; None: after it."""
        self._fold: Values = {}
        self._folded: dict[str, int] = {}
        self._folded_count = 0

    def report(self, snapshot: Snapshot, now: float) -> None:
        """A replica tells what it counted. Another process of the same name follows one that has ended."""
        if self._early is not None:
            before = self._early.get((snapshot.replica, snapshot.epoch))
            if before is None or before.snapshot.sequence < snapshot.sequence:
                self._early[snapshot.replica, snapshot.epoch] = _Heard(snapshot, now)
            return
        known = self._heard.get(snapshot.replica)
        if self._folded.get(snapshot.replica, -1) >= snapshot.epoch:
            return  # it has ended; this one was held up on its way
        if known is not None:
            if (snapshot.epoch, snapshot.sequence) < (known.snapshot.epoch, known.snapshot.sequence):
                return
            if snapshot.epoch > known.snapshot.epoch:
                self._retire(snapshot.replica)
        self._heard[snapshot.replica] = _Heard(snapshot, now)

    def ended(self, alive: set[str], now: float) -> None:
        """Folds every replica that is not among those `alive` and has been silent for long: a replica that reports
        lives, whatever it is that the controller says while it recovers.
        """
        for replica, heard in list(self._heard.items()):
            heard.at = now - self._fresh_s if heard.at is None else heard.at
            if replica not in alive and now - heard.at > self._fold_after_s:
                self._retire(replica)

    def _retire(self, replica: str) -> None:
        snapshot = self._heard.pop(replica).snapshot
        add(self._fold, snapshot.counters)
        self._folded.pop(replica, None)
        self._folded[replica] = snapshot.epoch
        self._folded_count += 1
        while len(self._folded) > REMEMBERED:
            del self._folded[next(iter(self._folded))]

    def totals(self, now: float, wanted: Mapping[str, int]) -> Totals:
        """What to show. `wanted`: replicas that each deployment should have."""
        counters = dict(self._fold)
        all_heard = [*self._heard.values(), *(self._early or {}).values()]
        for heard in all_heard:
            add(counters, heard.snapshot.counters)
        counters[series(m.FOLDED)] = float(self._folded_count)
        fresh = [(h.snapshot, now - h.at) for h in all_heard if h.at is not None]
        fresh = [(snapshot, age_s) for snapshot, age_s in fresh if age_s <= self._fresh_s]
        gauges = merged([snapshot for snapshot, _ in fresh])
        for name in {*wanted, *(snapshot.deployment for snapshot, _ in fresh)}:
            ages_s = [age_s for snapshot, age_s in fresh if snapshot.deployment == name]
            gauges[series(m.READY, deployment=name)] = float(len(ages_s))
            if ages_s:
                gauges[series(m.AGE, deployment=name)] = max(ages_s)
        for name, count in wanted.items():
            gauges[series(m.WANTED, deployment=name)] = float(count)
        return Totals(counters, gauges)

    def state(self) -> bytes:
        """Everything that another hub needs to go on from here."""
        return orjson.dumps(
            {
                "fold": _rows(self._fold),
                "folded": self._folded,
                "folded_count": self._folded_count,
                "heard": [_packed(heard.snapshot) for heard in self._heard.values()],
            }
        )

    def restore(self, state: bytes) -> None:
        """Takes over what another hub knew, empty: nothing; what this one has heard meanwhile comes on top.

        Raises:
            ValueError: `state` is none.
        """
        if state:
            try:
                read = orjson.loads(state)
                fold, folded = _values(read["fold"]), {str(k): int(v) for k, v in read["folded"].items()}
                count, known = int(read["folded_count"]), [_unpacked(packed) for packed in read["heard"]]
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"not a hub's state: {error!r}") from error
            self._fold, self._folded, self._folded_count = fold, folded, count
            self._heard = {snapshot.replica: _Heard(snapshot, None) for snapshot in known}
        early, self._early = self._early, None
        for _, heard in sorted((early or {}).items()):
            self.report(heard.snapshot, heard.at or 0.0)


def merged(snapshots: list[Snapshot]) -> Values:
    """The gauges of several replicas as one each."""
    gauges: Values = {}
    told = series(m.DRIFT_TOLD)
    latest = max(snapshots, key=lambda snapshot: snapshot.gauges.get(told, 0.0), default=None)
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


def alone(own: Snapshot, before: tuple[Totals, Snapshot] | None) -> Totals:
    """What a replica shows when the hub does not answer: its own snapshot, over the totals that it last had from the
    hub, if any, and with its own snapshot of `before` that went into them, so that no counter falls.
    """
    counters = dict(own.counters)
    if before is not None:
        totals, then = before
        counters = dict(totals.counters)
        for key, value in own.counters.items():
            counters[key] = counters.get(key, 0.0) + value - then.counters.get(key, 0.0)
    return Totals(counters, merged([own]) | {series(m.HUB_UP): 0.0})


def _rows(values: Values) -> list[tuple[str, dict[str, str], float]]:
    return [(name, dict(labels), value) for (name, labels), value in values.items()]


def _values(rows: list[tuple[str, dict[str, str], float]]) -> Values:
    found: Values = {}
    for name, labels, value in rows:
        key: Series = (name, tuple(sorted(labels.items())))
        found[key] = value
    return found


def _packed(snapshot: Snapshot) -> dict[str, object]:
    return {
        "replica": snapshot.replica,
        "epoch": snapshot.epoch,
        "sequence": snapshot.sequence,
        "deployment": snapshot.deployment,
        "counters": _rows(snapshot.counters),
    }


def _unpacked(packed: dict[str, object]) -> Snapshot:
    fields = {**packed, "counters": _values(packed["counters"]), "gauges": {}}  # type: ignore[arg-type]
    return Snapshot(**fields)  # type: ignore[arg-type]
