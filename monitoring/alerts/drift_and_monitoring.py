"""Alerts on what is recommended (drift), and on the monitoring itself: a silent monitor looks like a healthy system."""

from __future__ import annotations

from monitoring.alerts.rule import JOB, WANTED, Alert, number, rate
from monitoring.alerts.values import AlertValues
from monitoring.metrics.declarations import VERDICTS

INPUTS = "(input|request|embedding)[.].*"
PREDICTIONS = "(retrieval|score|answer)[.].*"
"""Signals of drift, by what they tell of."""


def alerts(values: AlertValues) -> list[Alert]:
    """All of them."""
    return [*(_drift(values) if values.drift.enabled else ()), *_monitor(values)]


def _drift(values: AlertValues) -> list[Alert]:
    drift = values.drift
    rows = "rayfunnel_drift_rows_total"
    told = "max(rayfunnel_drift_actor_timestamp_seconds)"
    w = values.traffic.window
    unsent = rate(f'{rows}{{outcome=~"lost|dropped"}}', w)

    def drifts(name: str, title: str, signals: str) -> Alert:
        return Alert(
            name=name,
            expr=f'max by (signal) (rayfunnel_drift_verdict{{signal=~"{signals}"}}) == {VERDICTS["DRIFT"]}',
            for_=drift.for_,
            severity="ticket",
            concern="drift",
            summary=f"{title} drift: {{{{ $labels.signal }}}}",
            description="Live traffic differs from the model's reference in it; GET /v1/drift says by how much.",
        )

    return [
        drifts("RayfunnelInputDrift", "Inputs", INPUTS),
        drifts("RayfunnelPredictionDrift", "Predictions", PREDICTIONS),
        Alert(
            name="RayfunnelDriftStale",
            expr=f"time() - {told} > {number(drift.stale_s)}",
            for_=values.monitor.for_,
            severity="ticket",
            concern="drift monitor",
            summary="The drift actor does not answer",
            description="Its last answer is {{ $value | humanizeDuration }} old; verdicts stand still.",
        ),
        Alert(
            name="RayfunnelDriftSilent",
            expr="absent(rayfunnel_drift_verdict)",
            for_=values.monitor.for_,
            severity="ticket",
            concern="drift monitor",
            summary="There are no drift verdicts",
            description="No ingress replica has heard of the drift actor.",
        ),
        Alert(
            name="RayfunnelDriftRowsLost",
            expr=f"{unsent} / {rate(rows, w)} > {number(drift.lost)}",
            for_=values.monitor.for_,
            severity="ticket",
            concern="drift monitor",
            summary="Sampled requests do not reach the drift actor",
            description=f"{{{{ $value | humanizePercentage }}}} were lost in the last {w}.",
        ),
        Alert(
            name="RayfunnelDriftBlind",
            expr=f"max(rayfunnel_drift_verdict) == {VERDICTS['INSUFFICIENT_DATA']}",
            for_=drift.blind_for,
            severity="ticket",
            concern="drift monitor",
            summary="No signal has enough data for a drift verdict",
            description=f"For {drift.blind_for} every window held too few requests.",
        ),
    ]


def _monitor(values: AlertValues) -> list[Alert]:
    monitor = values.monitor
    return [
        Alert(
            name="RayfunnelDown",
            expr=f'up{{job="{JOB}"}} == 0',
            for_=monitor.for_,
            severity="page",
            concern="monitor",
            summary="The application at {{ $labels.instance }} does not answer",
            description="GET /metrics failed or came too late.",
        ),
        Alert(
            name="RayfunnelSilent",
            expr=f'count(absent(up{{job="{JOB}"}}) or absent(rayfunnel_hub_up))',
            for_=monitor.for_,
            severity="page",
            concern="monitor",
            summary="Nothing is heard of the application",
            description="Prometheus has no target for it, or the target lacks its metrics: other alerts can't fire.",
        ),
        Alert(
            name="RayfunnelHubDown",
            expr="rayfunnel_hub_up == 0",
            for_=monitor.for_,
            severity="ticket",
            concern="hub",
            summary="The metrics hub does not answer",
            description="GET /metrics shows what the answering replica knows last; totals stand still.",
        ),
        Alert(
            name="RayfunnelDeploymentSilent",
            expr=f"{WANTED} > 0 unless on (deployment) rayfunnel_snapshot_age_seconds",
            for_=monitor.for_,
            severity="ticket",
            concern="hub",
            summary="No replica of {{ $labels.deployment }} reports to the metrics hub",
            description="{{ $value | humanize }} are wanted.",
            labels={"scope": "replica"},
        ),
        Alert(
            name="RayfunnelRaySilent",
            expr="absent(ray_node_cpu_count)",
            for_=monitor.for_,
            severity="ticket",
            concern="nodes",
            summary="Ray's own metrics are missing",
            description="No node is scraped: alerts on nodes, resources and autoscaling can't fire.",
        ),
        Alert(
            name="RayfunnelWatchdog",
            expr="vector(1)",
            for_="0s",
            severity="watchdog",
            concern="watchdog",
            summary="Alerting works",
            description="Always fires; whoever receives it must raise the alarm when it stops coming.",
        ),
    ]
