"""Alerts on the monitoring itself: without them, missing metrics look like a healthy system."""

from __future__ import annotations

from monitoring.alerts.rule import JOB, WANTED, Alert
from monitoring.alerts.values import AlertValues


def alerts(values: AlertValues) -> list[Alert]:
    """All alerts of this file."""
    monitor = values.monitor
    return [
        Alert(
            name="RayfunnelDown",
            expr=f'up{{job="{JOB}"}} == 0',
            for_=monitor.for_,
            severity="page",
            concern="monitor",
            summary="The application at {{ $labels.instance }} does not answer",
            description="GET /metrics failed or timed out.",
        ),
        Alert(
            name="RayfunnelSilent",
            expr=f'count(absent(up{{job="{JOB}"}}) or absent(rayfunnel_hub_up))',
            for_=monitor.for_,
            severity="page",
            concern="monitor",
            summary="Prometheus has no metrics of the application",
            description="There is no target for it, or the target does not have its metrics. Other alerts can't fire.",
        ),
        Alert(
            name="RayfunnelHubDown",
            expr="rayfunnel_hub_up == 0",
            for_=monitor.for_,
            severity="ticket",
            concern="hub",
            summary="The metrics hub does not answer",
            description="GET /metrics shows the last totals and the answering replica's own counts only.",
        ),
        Alert(
            name="RayfunnelDeploymentSilent",
            expr=f"{WANTED} > 0 unless on (deployment) rayfunnel_snapshot_age_seconds",
            for_=monitor.for_,
            severity="ticket",
            concern="hub",
            summary="No replica of {{ $labels.deployment }} reports to the metrics hub",
            description="{{ $value | humanize }} replicas are wanted.",
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
            description="Always fires; its receiver must raise an alarm when it stops.",
        ),
    ]
