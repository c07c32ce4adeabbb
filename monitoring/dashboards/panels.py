"""The panels of each dashboard, and their queries. `build.py` makes Grafana's JSON of them."""

from __future__ import annotations

from dataclasses import dataclass

from monitoring.alerts.rule import JOB, RAY_JOB, SERVING
from monitoring.alerts.slo import Slo, slos
from monitoring.alerts.values import AlertValues, seconds

W = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """A chart. `queries`: (legend, PromQL); `unit`: Grafana's name of the unit; `wide`: width in 24ths of the page."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    description: str = ""
    wide: int = 12
    stat: bool = False
    """Shows the current value alone, not a time series."""


def _quantile(q: float, series: str, *by: str) -> str:
    return f"histogram_quantile({q}, sum by ({', '.join(('le', *by))}) (rate({series}_bucket[{W}])))"


def _stat(title: str, unit: str, expr: str, description: str = "") -> Panel:
    return Panel(title, unit, (("", expr),), description, wide=4, stat=True)


def _quantiles(series: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"p{100 * q:g}", _quantile(q, series)) for q in (0.5, 0.95, 0.99))


def _budget_left(slo: Slo, window: str) -> str:
    bad, everything = slo.recorded("bad", window), slo.recorded("all", window)
    return f"1 - {bad} / {everything} / {1 - slo.objective:.10g}"


def _overview(values: AlertValues) -> list[Panel]:
    window = max((pair.long for pair in values.slo.windows), key=seconds)
    availability, latency = slos(values)
    requests = f"sum (rate(rayfunnel_requests_total[{W}]))"
    failed = f'sum (rate(rayfunnel_requests_total{{status=~"5.."}}[{W}]))'
    answers = f'sum (rate(rayfunnel_requests_total{{{SERVING},status="200"}}[{W}]))'
    return [
        _stat("Application", "none", f'min(up{{job="{JOB}"}})', "1: GET /metrics answers."),
        _stat("Store", "none", "rayfunnel_store_up", "1: the store answers."),
        _stat("Requests", "reqps", requests),
        _stat("Alerts that fire", "none", 'count(ALERTS{alertstate="firing",severity!="watchdog"}) or vector(0)'),
        _stat("Budget left: availability", "percentunit", _budget_left(availability, window), f"Of the last {window}."),
        _stat("Budget left: latency", "percentunit", _budget_left(latency, window), f"Of the last {window}."),
        Panel(
            "Requests by status", "reqps", (("{{status}}", f"sum by (status) (rate(rayfunnel_requests_total[{W}]))"),)
        ),
        Panel("Time to answer", "s", _quantiles("rayfunnel_request_seconds"), "All operations."),
        Panel("5xx", "percentunit", (("share", f"({failed} or {requests} * 0) / {requests}"),)),
        Panel(
            "Degraded answers",
            "percentunit",
            (
                (
                    "{{stage}}: {{reason}}",
                    f"sum by (stage, reason) (rate(rayfunnel_degraded_total[{W}])) / on () group_left () {answers}",
                ),
            ),
            "A fallback replaced the stage.",
        ),
        Panel(
            "Refused and late",
            "reqps",
            (
                ("shed", f"sum (rate(rayfunnel_shed_total[{W}]))"),
                ("expired", f"sum (rate(rayfunnel_expired_total[{W}]))"),
            ),
            "Shed: the queue was full. Expired: answered at the deadline, before the last stage.",
        ),
        Panel(
            "Requests by operation",
            "reqps",
            (("{{operation}}", f"sum by (operation) (rate(rayfunnel_requests_total[{W}]))"),),
        ),
    ]


def _stages() -> list[Panel]:
    return [
        Panel(
            "Time of a batch by stage, p95",
            "s",
            (("{{stage}}", _quantile(0.95, "rayfunnel_stage_seconds", "stage")),),
            "Measured by the ingress; queue: until the batch left the queue.",
        ),
        Panel(
            "Time of a batch by stage, mean",
            "s",
            (
                (
                    "{{stage}}",
                    f"sum by (stage) (rate(rayfunnel_stage_seconds_sum[{W}])) / "
                    f"sum by (stage) (rate(rayfunnel_stage_seconds_count[{W}]))",
                ),
            ),
        ),
        Panel("Requests per batch", "none", _quantiles("rayfunnel_batch_size")),
        Panel(
            "Requests that wait", "none", (("ingress", "sum(rayfunnel_queue_depth)"),), "For a batch, in the ingress."
        ),
        Panel(
            "Requests at the replicas",
            "none",
            (("{{deployment}}", "rayfunnel_stage_queue_depth"),),
            "Waiting or running.",
        ),
        Panel(
            "Requests through the replicas",
            "reqps",
            (
                (
                    "{{deployment}}: {{outcome}}",
                    f"sum by (deployment, outcome) (rate(rayfunnel_stage_requests_total[{W}]))",
                ),
            ),
        ),
        Panel(
            "Computing a batch, p95",
            "s",
            (("{{deployment}}", _quantile(0.95, "rayfunnel_stage_compute_seconds", "deployment")),),
            "In the replica, without transport and queueing.",
        ),
        Panel(
            "Requests computed together, median",
            "none",
            (("{{deployment}}", _quantile(0.5, "rayfunnel_stage_batch_size", "deployment")),),
        ),
        Panel(
            "Candidate cache",
            "percentunit",
            (
                (
                    "{{outcome}}",
                    f"sum by (outcome) (rate(rayfunnel_cache_total[{W}])) / on () group_left () "
                    f"sum (rate(rayfunnel_cache_total[{W}]))",
                ),
            ),
        ),
        Panel(
            "Backend stand-ins",
            "none",
            (("{{stage}}: {{backend}}", f"sum by (stage, backend) (rate(rayfunnel_backend_stand_in_total[{W}]))"),),
            "Batches per second that ran on another backend than configured.",
        ),
    ]


def _autoscaling() -> list[Panel]:
    def policy(title: str, field: str, unit: str, description: str) -> Panel:
        expr = f"max by (stage) (ray_rayfunnel_autoscaling_{field})"
        return Panel(title, unit, (("{{stage}}", expr),), description)

    return [
        Panel(
            "Replicas",
            "none",
            (
                ("{{deployment}} ready", "rayfunnel_replicas_ready"),
                ("{{deployment}} wanted", "rayfunnel_replicas_wanted"),
            ),
        ),
        policy("Target", "target", "none", "Set by the policy."),
        policy("Desired", "desired", "none", "Before bounds and budget."),
        policy("Room", "room", "none", "Replicas for which the cluster has room; -1: enough for all wanted."),
        policy("Arrival rate", "rate", "reqps", "Measured by the policy."),
        policy("Rise of the rate", "rise", "none", "Requests/s per second."),
        policy("Queue", "queue", "none", "Waiting requests, measured by the policy."),
        policy("Service rate of a replica", "mu", "reqps", "Learned."),
        policy(
            "Served share",
            "served_share",
            "percentunit",
            "Of the arrival rate, by the ready replicas.",
        ),
        policy("Start-up time", "startup_s", "s", "Learned."),
    ]


def _drift() -> list[Panel]:
    return [
        Panel(
            "Verdicts",
            "none",
            (("{{signal}}", "max by (signal) (rayfunnel_drift_verdict)"),),
            "0 OK, 1 WARN, 2 DRIFT, -1 not enough data.",
            wide=24,
        ),
        Panel(
            "Signals by verdict",
            "none",
            tuple(
                (name, f"count(max by (signal) (rayfunnel_drift_verdict) == {value}) or vector(0)")
                for name, value in (("OK", 0), ("WARN", 1), ("DRIFT", 2), ("not enough data", -1))
            ),
        ),
        Panel(
            "Since the actor last answered",
            "s",
            (("age", "time() - max(rayfunnel_drift_actor_timestamp_seconds)"),),
        ),
        Panel(
            "Sampled requests",
            "reqps",
            (("{{outcome}}", f"sum by (outcome) (rate(rayfunnel_drift_rows_total[{W}]))"),),
        ),
    ]


def _resources() -> list[Panel]:
    return [
        Panel("CPU by deployment", "none", (("{{deployment}}", f"rate(rayfunnel_cpu_seconds_total[{W}])"),), "Cores."),
        Panel(
            "Memory by deployment",
            "bytes",
            (("{{deployment}}", "rayfunnel_memory_bytes"), ("{{deployment}}, largest", "rayfunnel_memory_max_bytes")),
            "Resident memory of all replicas, and of the largest.",
        ),
        Panel("GPU memory by deployment", "bytes", (("{{deployment}}", "rayfunnel_gpu_memory_bytes"),)),
        Panel("GPU utilisation", "percentunit", (("{{deployment}}", "rayfunnel_gpu_utilization_ratio"),)),
        Panel("Event loop lag", "s", (("{{deployment}}", "rayfunnel_event_loop_lag_seconds"),)),
        Panel(
            "Age of snapshots",
            "s",
            (("{{deployment}}", "rayfunnel_snapshot_age_seconds"),),
            "Of the replica with the oldest snapshot.",
        ),
        Panel(
            "Metrics hub",
            "none",
            (("up", "rayfunnel_hub_up"), ("folded replicas", "rayfunnel_folded_replicas_total")),
            "Folded: ended replicas whose counts are kept.",
        ),
        Panel("Hub running for", "s", (("age", "time() - rayfunnel_hub_started_timestamp_seconds"),)),
        Panel("CPU by node", "percent", (("{{ip}}", "max by (ip) (ray_node_cpu_utilization)"),)),
        Panel("Memory by node", "percentunit", (("{{ip}}", "max by (ip) (ray_node_mem_used / ray_node_mem_total)"),)),
        Panel("Disk by node", "percent", (("{{ip}}", "max by (ip) (ray_node_disk_utilization_percentage)"),)),
        Panel(
            "GPU memory by GPU",
            "percentunit",
            (
                (
                    "{{ip}}: {{GpuIndex}}",
                    "ray_node_gram_used / (ray_node_gram_used + ray_node_gram_available)",
                ),
            ),
        ),
        Panel(
            "Scrapes", "none", (("{{instance}}", f'up{{job=~"{JOB}|{RAY_JOB}"}}'),), "0: the target does not answer."
        ),
    ]


def dashboards(values: AlertValues) -> dict[str, list[Panel]]:
    """Name → panels, in their order on the page."""
    return {
        "overview": _overview(values),
        "stages": _stages(),
        "autoscaling": _autoscaling(),
        "drift": _drift(),
        "resources": _resources(),
    }
