"""Declares every metric of the funnel; no other module can.

A replica counts with `ReplicaMetrics` (replica_metrics.py), the metrics hub adds the replicas up (aggregation.py), and
`GET /metrics` shows the totals in Prometheus' text format. Counters and histograms cover the whole application since it
was first deployed. Gauges cover the live replicas, merged as `merge` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
VERDICTS = {"OK": 0, "WARN": 1, "DRIFT": 2, "INSUFFICIENT_DATA": -1}

Merge = Literal["sum", "max", "latest", "hub"]


@dataclass(frozen=True, eq=False)
class Metric:
    """One family. `merge`: how the gauges of the replicas become one: `sum`, `max`, `latest` (of the replica that the
    drift actor answered last), `hub` (set by the hub itself). Counters and histograms are always added up.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    merge: Merge = "sum"


_declared: dict[str, Metric] = {}
DECLARED: Mapping[str, Metric] = _declared
"""Name, as in Prometheus → metric."""


def _declare(metric: Metric) -> Metric:
    assert metric.name not in _declared, f"{metric.name} is declared twice"
    _declared[metric.name] = metric
    return metric


def _counter(name: str, text: str, *labels: str) -> Metric:
    assert name.endswith("_total")
    return _declare(Metric(name, "counter", text, labels))


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return _declare(Metric(name, "histogram", text, labels, buckets))


def _gauge(name: str, text: str, merge: Merge, *labels: str) -> Metric:
    return _declare(Metric(name, "gauge", text, labels, merge=merge))


REQUESTS = _counter(
    "rayfunnel_requests_total",
    "Requests answered, by HTTP status (handle calls: the status HTTP would have given).",
    "operation",
    "status",
)
LATENCY = _histogram(
    "rayfunnel_request_seconds",
    "From the request's arrival in the ingress to its answer.",
    SECONDS,
    "operation",
)
STAGE = _histogram(
    "rayfunnel_stage_seconds",
    "Time of a batch in each stage, as seen by the ingress; `queue`: until its batch left.",
    SECONDS,
    "stage",
)
DEGRADED = _counter(
    "rayfunnel_degraded_total", "Answers in which a fallback replaced a stage, by stage and reason.", "stage", "reason"
)
SHED = _counter(
    "rayfunnel_shed_total",
    "Requests refused with 503 at a bound: `queue` (recommend and rank), `similar`, `events`.",
    "reason",
)
EXPIRED = _counter(
    "rayfunnel_expired_total",
    "Requests answered at their deadline, before the last stage, by the stage that they had reached.",
    "stage",
)
BACKEND_FALLBACK = _counter(
    "rayfunnel_backend_stand_in_total",
    "Batches that ran on another backend than configured, by that backend.",
    "stage",
    "backend",
)
FAST_PATH_OFF = _gauge(
    "rayfunnel_fast_path_off",
    "Ingress replicas without the HTTP fast path, because uvicorn is not as tested.",
    "sum",
)
BATCH = _histogram("rayfunnel_batch_size", "Requests per batch.", SIZES)
CACHE = _counter(
    "rayfunnel_cache_total",
    "Requests by result of the candidate cache: `hit` (no candidate stage, and no scoring if scores are cached), "
    "`miss`; `joined`: shared the answer of an equal request in the queue.",
    "outcome",
)
WAITING = _gauge("rayfunnel_queue_depth", "Requests that wait for a batch in the ingress.", "sum")

STAGE_REQUESTS = _counter(
    "rayfunnel_stage_requests_total",
    "Requests that reached the replicas of a stage: `completed`, `failed`, or `expired` before they were computed.",
    "deployment",
    "outcome",
)
STAGE_COMPUTE = _histogram(
    "rayfunnel_stage_compute_seconds",
    "Time that a replica computes a batch, without transport and queueing.",
    SECONDS,
    "deployment",
)
STAGE_BATCH = _histogram(
    "rayfunnel_stage_batch_size", "Requests that a replica computes together.", SIZES, "deployment"
)
STAGE_WAITING = _gauge(
    "rayfunnel_stage_queue_depth",
    "Requests that wait or run in the replicas of a stage.",
    "sum",
    "deployment",
)

DRIFT_ROWS = _counter(
    "rayfunnel_drift_rows_total",
    "Requests sampled for drift: `sent` to the actor, `lost` because the actor did not accept them, `dropped` because "
    "the buffer was full.",
    "outcome",
)
DRIFT_VERDICT = _gauge(
    "rayfunnel_drift_verdict",
    "Latest verdict of the drift actor per signal: 0 OK, 1 WARN, 2 DRIFT, -1 not enough data.",
    "latest",
    "signal",
)
DRIFT_LAST_ANSWER = _gauge(
    "rayfunnel_drift_actor_timestamp_seconds",
    "When the drift actor last answered an ingress replica, Unix seconds; 0: never.",
    "max",
)

CPU = _counter("rayfunnel_cpu_seconds_total", "CPU time of the replicas' processes, user and system.", "deployment")
MEMORY = _gauge("rayfunnel_memory_bytes", "Resident memory of all replicas of a deployment.", "sum", "deployment")
MEMORY_MAX = _gauge("rayfunnel_memory_max_bytes", "Resident memory of its largest replica.", "max", "deployment")
GPU_MEMORY = _gauge(
    "rayfunnel_gpu_memory_bytes", "GPU memory that torch holds in all replicas of a deployment.", "sum", "deployment"
)
GPU_USED = _gauge(
    "rayfunnel_gpu_utilization_ratio", "Utilization of the busiest of its GPUs, 0 to 1.", "max", "deployment"
)
LAG = _gauge(
    "rayfunnel_event_loop_lag_seconds",
    "Longest lag of an event loop of the deployment in the last seconds.",
    "max",
    "deployment",
)

READY = _gauge("rayfunnel_replicas_ready", "Replicas whose snapshots are fresh.", "hub", "deployment")
WANTED = _gauge("rayfunnel_replicas_wanted", "Target number of replicas of Serve's controller.", "hub", "deployment")
AGE = _gauge("rayfunnel_snapshot_age_seconds", "Age of the oldest fresh snapshot.", "hub", "deployment")
STORE_UP = _gauge("rayfunnel_store_up", "1 if the store answers the hub, else 0.", "hub")
HUB_UP = _gauge("rayfunnel_hub_up", "1; 0 if the ingress replica answers the scrape without the hub.", "hub")
HUB_STARTED = _gauge("rayfunnel_hub_started_timestamp_seconds", "When the hub's process started, Unix seconds.", "hub")
FOLDED = _counter("rayfunnel_folded_replicas_total", "Ended replicas whose counts are kept in the totals.")
