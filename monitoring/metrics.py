"""Every metric of the funnel, declared in one place; nothing else can make one.

Each ingress replica counts what it answered and exposes it at `GET /metrics` in Prometheus' text format. With several
ingress replicas a scrape through the proxy meets one of them; the label `replica` tells which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
VERDICTS = {"OK": 0, "WARN": 1, "DRIFT": 2, "INSUFFICIENT_DATA": -1}
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class FunnelMetrics:
    """The metrics of one ingress replica. `replica`: value of the label that all of them carry."""

    def __init__(self, replica: str) -> None:
        self._registry = CollectorRegistry()
        self._labels = {"replica": replica}
        names = ("replica", "operation")
        self._requests = Counter(
            "rayfunnel_requests",
            "Requests answered, by HTTP status (handle calls: the status HTTP would have given).",
            (*names, "status"),
            registry=self._registry,
        )
        self._latency = Histogram(
            "rayfunnel_request_seconds",
            "From the request's arrival in the ingress to its answer.",
            names,
            buckets=SECONDS,
            registry=self._registry,
        )
        self._stage = Histogram(
            "rayfunnel_stage_seconds",
            "Time of a batch in each stage, as seen by the ingress; `queue`: until its batch left.",
            ("replica", "stage"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._degraded = Counter(
            "rayfunnel_degraded",
            "Answers for which a fallback stood in, by stage and reason.",
            ("replica", "stage", "reason"),
            registry=self._registry,
        )
        self._stood_in = Counter(
            "rayfunnel_backend_stand_in",
            "Batches whose model ran on another backend than configured, by the one that it ran on.",
            ("replica", "stage", "backend"),
            registry=self._registry,
        )
        self._batch = Histogram(
            "rayfunnel_batch_size",
            "Requests per batch.",
            ("replica",),
            buckets=SIZES,
            registry=self._registry,
        )
        self._cache = Counter(
            "rayfunnel_cache",
            "Requests by what spared them the candidate stage: `hit`, `miss` (nothing did); `joined`: an equal request "
            "was in the queue.",
            ("replica", "outcome"),
            registry=self._registry,
        )
        self._waiting = Gauge(
            "rayfunnel_queue_depth",
            "Requests that wait for a batch, at the time of the scrape.",
            ("replica",),
            registry=self._registry,
        )

        self._drift_rows = Counter(
            "rayfunnel_drift_rows",
            "Requests sampled for drift: `sent` to the actor, `lost` because it did not take them, `dropped` because "
            "the buffer was full.",
            ("replica", "outcome"),
            registry=self._registry,
        )
        self._drift = Gauge(
            "rayfunnel_drift_verdict",
            "Verdict per signal as the actor last told this replica: 0 OK, 1 WARN, 2 DRIFT, -1 not enough data.",
            ("replica", "signal"),
            registry=self._registry,
        )
        self._drift_told = Gauge(
            "rayfunnel_drift_actor_timestamp_seconds",
            "When the drift actor last answered this replica, Unix seconds; 0: never.",
            ("replica",),
            registry=self._registry,
        )
        self._drift_dropped = 0

    def request(self, operation: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests.labels(operation=operation, status=str(status), **self._labels).inc()
        self._latency.labels(operation=operation, **self._labels).observe(seconds)

    def answer(self, degraded: Iterable[str]) -> None:
        """One answer left, with its `degraded` entries (`stage:reason`)."""
        for entry in degraded:
            stage, reason = entry.split(":", 1)
            reason = reason.rsplit(" ", 1)[-1]  # "3/4 shards": shards
            self._degraded.labels(stage=stage, reason=reason, **self._labels).inc()

    def stood_in(self, stage: str, backend: str) -> None:
        """A batch was computed by `backend`, in the place of the one configured."""
        self._stood_in.labels(stage=stage, backend=backend, **self._labels).inc()

    def batch(self, size: int, stages_ms: Mapping[str, float]) -> None:
        """One batch went through the funnel."""
        self._batch.labels(**self._labels).observe(size)
        for stage, milliseconds in stages_ms.items():
            self._stage.labels(stage=stage, **self._labels).observe(milliseconds / 1e3)

    def cached(self, hits: int, misses: int) -> None:
        """The candidate cache was asked."""
        self._cache.labels(outcome="hit", **self._labels).inc(hits)
        self._cache.labels(outcome="miss", **self._labels).inc(misses)

    def joined(self) -> None:
        """A request is answered with an equal one that was in the queue."""
        self._cache.labels(outcome="joined", **self._labels).inc()

    def drift(self, verdicts: Mapping[str, str] | None, sent: int = 0, lost: int = 0, dropped: int = 0) -> None:
        """The drift actor took a sample and gave its `verdicts`, or did not (None). `dropped`: in all, so far."""
        for outcome, count in (("sent", sent), ("lost", lost), ("dropped", dropped - self._drift_dropped)):
            self._drift_rows.labels(outcome=outcome, **self._labels).inc(count)
        self._drift_dropped = dropped
        told = self._drift_told.labels(**self._labels)
        if verdicts is not None:
            told.set_to_current_time()
            for signal, verdict in verdicts.items():
                self._drift.labels(signal=signal, **self._labels).set(VERDICTS[verdict])

    def text(self, waiting: int) -> bytes:
        """Prometheus' text exposition. `waiting`: requests in the queue now."""
        self._waiting.labels(**self._labels).set(waiting)
        return generate_latest(self._registry)
