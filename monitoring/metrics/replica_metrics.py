"""Counts the metrics of one replica, as declared in `declarations.py`, and takes snapshots of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from monitoring.metrics import declarations as m
from monitoring.metrics.snapshots import ReplicaSnapshot, Series

_KINDS: dict[str, type[Any]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}


class ReplicaMetrics:
    """The metrics of one replica of `deployment`. Thread-safe.

    `replica`: its id; no other process ever has the same id and start time.
    """

    def __init__(self, replica: str, deployment: str = "Ingress") -> None:
        self._replica, self._deployment, self._epoch, self._sequence = replica, deployment, time.time_ns(), 0
        self._registry = CollectorRegistry()
        self._families: dict[m.Metric, Any] = {}
        self._children: dict[Any, Any] = {}
        for metric in m.DECLARED.values():
            if metric.merge == "hub" or metric is m.FOLDED:
                continue
            more = {"buckets": metric.buckets} if metric.buckets else {}
            self._families[metric] = _KINDS[metric.kind](
                metric.name, metric.help, metric.labels, registry=self._registry, **more
            )
        self._drift_dropped = 0
        self._cpu_s = 0.0
        if deployment == "Ingress":
            for reason in ("queue", "similar", "events"):  # from the start, so that the first one shows as an increase
                self._of(m.SHED, reason=reason)
            for stage in ("queue", "profile", "candidates", "scoring", "ranking"):
                self._of(m.EXPIRED, stage=stage)

    def _of(self, metric: m.Metric, **labels: str) -> Any:
        """The child for these labels; ValueError if they are not the declared ones."""
        key = (metric, *labels.items())
        child = self._children.get(key)
        if child is None:
            family = self._families[metric]
            child = self._children[key] = family.labels(**labels) if metric.labels or labels else family
        return child

    def request(self, operation: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._of(m.REQUESTS, operation=operation, status=str(status)).inc()
        self._of(m.LATENCY, operation=operation).observe(seconds)

    def refused(self, operation: str, status: int) -> None:
        """One request was refused unread; its time is not counted, as it would distort the latency."""
        self._of(m.REQUESTS, operation=operation, status=str(status)).inc()

    def fast_path_off(self) -> None:
        """This ingress replica has no HTTP fast path."""
        self._of(m.FAST_PATH_OFF).set(1)

    def answer(self, degraded: Iterable[str]) -> None:
        """One answer left, with its `degraded` entries (`stage:reason`)."""
        for entry in degraded:
            stage, reason = entry.split(":", 1)
            reason = reason.rsplit(" ", 1)[-1]  # "3/4 shards": shards
            self._of(m.DEGRADED, stage=stage, reason=reason).inc()

    def shed(self, reason: str) -> None:
        """A request was refused at the bound `reason`."""
        self._of(m.SHED, reason=reason).inc()

    def expired(self, stage: str, requests: int) -> None:
        """Requests were answered at their deadline; `stage`: the stage that they had reached."""
        self._of(m.EXPIRED, stage=stage).inc(requests)

    def backend_fallback(self, stage: str, backend: str) -> None:
        """A batch was computed by `backend` instead of the configured one."""
        self._of(m.BACKEND_FALLBACK, stage=stage, backend=backend).inc()

    def batch(self, size: int, stages_ms: Mapping[str, float]) -> None:
        """One batch went through the funnel."""
        self._of(m.BATCH).observe(size)
        for stage, milliseconds in stages_ms.items():
            self._of(m.STAGE, stage=stage).observe(milliseconds / 1e3)

    def cached(self, hits: int, misses: int) -> None:
        """The candidate cache was read for so many requests."""
        self._of(m.CACHE, outcome="hit").inc(hits)
        self._of(m.CACHE, outcome="miss").inc(misses)

    def joined(self) -> None:
        """A request joined an equal one in the queue and shares its answer."""
        self._of(m.CACHE, outcome="joined").inc()

    def drift(self, verdicts: Mapping[str, str] | None, sent: int = 0, lost: int = 0, dropped: int = 0) -> None:
        """A sample was sent to the drift actor. `verdicts`: its answer, None: no answer; `dropped`: in all, so far."""
        for outcome, count in (("sent", sent), ("lost", lost), ("dropped", dropped - self._drift_dropped)):
            self._of(m.DRIFT_ROWS, outcome=outcome).inc(count)
        self._drift_dropped = dropped
        if verdicts is not None:
            self._of(m.DRIFT_LAST_ANSWER).set_to_current_time()
            for signal, verdict in verdicts.items():
                self._of(m.DRIFT_VERDICT, signal=signal).set(m.VERDICTS[verdict])

    def stage_requests(self, outcome: str, rows: int) -> None:
        """A call with so many requests ended in this replica of a stage: `completed`, `failed` or `expired`."""
        self._of(m.STAGE_REQUESTS, deployment=self._deployment, outcome=outcome).inc(rows)

    def computed(self, rows: int, seconds: float) -> None:
        """This replica of a stage computed a batch."""
        self._of(m.STAGE_COMPUTE, deployment=self._deployment).observe(seconds)
        self._of(m.STAGE_BATCH, deployment=self._deployment).observe(rows)

    def waiting(self, requests: int) -> None:
        """So many requests wait in this replica now."""
        if self._deployment == "Ingress":
            self._of(m.WAITING).set(requests)
        else:
            self._of(m.STAGE_WAITING, deployment=self._deployment).set(requests)

    def resources(
        self, cpu_s: float, memory_bytes: float, gpu: tuple[float, float | None] | None, lag_s: float
    ) -> None:
        """Resource usage of this process. `cpu_s`: in all, so far; `gpu`: bytes of memory and utilization (0 to 1),
        None: unknown; `lag_s`: the longest lag of its event loop.
        """
        own = {"deployment": self._deployment}
        self._of(m.CPU, **own).inc(max(0.0, cpu_s - self._cpu_s))
        self._cpu_s = cpu_s
        self._of(m.MEMORY, **own).set(memory_bytes)
        self._of(m.MEMORY_MAX, **own).set(memory_bytes)
        self._of(m.LAG, **own).set(lag_s)
        if gpu is not None:
            self._of(m.GPU_MEMORY, **own).set(gpu[0])
            if gpu[1] is not None:
                self._of(m.GPU_USED, **own).set(gpu[1])

    def snapshot(self) -> ReplicaSnapshot:
        """A snapshot of everything counted so far, with the next sequence number."""
        self._sequence += 1
        counters: dict[Series, float] = {}
        gauges: dict[Series, float] = {}
        for family in self._registry.collect():
            values = gauges if family.type == "gauge" else counters
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    values[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
        return ReplicaSnapshot(self._replica, self._epoch, self._sequence, self._deployment, counters, gauges)
