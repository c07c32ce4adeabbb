"""Metrics of a replica that has answered some requests."""

from __future__ import annotations

from monitoring.metrics import declarations as m
from monitoring.metrics.replica_metrics import ReplicaMetrics
from monitoring.metrics.snapshots import series

ANSWERS = series(m.REQUESTS, operation="recommend", status="200")


def counted(name: str, requests: int, deployment: str = "Ingress") -> ReplicaMetrics:
    """A replica that has answered `requests` recommendations."""
    metrics = ReplicaMetrics(name, deployment)
    for _ in range(requests):
        metrics.request("recommend", 200, 0.01)
    return metrics
