"""Prometheus' files: its configuration and the alerting rules."""

from __future__ import annotations

from typing import Any

from monitoring.alerts import application, drift, self_monitoring, slo
from monitoring.alerts.rule import JOB, RAY_JOB, Alert
from monitoring.alerts.values import AlertValues

RULES = "rules.yaml"


def alerts(values: AlertValues) -> list[Alert]:
    """All alerts."""
    return [*slo.alerts(values), *application.alerts(values), *drift.alerts(values), *self_monitoring.alerts(values)]


def rules(values: AlertValues) -> dict[str, Any]:
    """The rules file."""

    def rendered(found: list[Alert]) -> list[dict[str, Any]]:
        return [alert.rule(values.runbook) for alert in found]

    return {
        "groups": [
            {"name": "rayfunnel-slo", "rules": [*slo.records(values), *rendered(slo.alerts(values))]},
            {"name": "rayfunnel-serving", "rules": rendered(application.alerts(values))},
            {"name": "rayfunnel-watching", "rules": rendered([*drift.alerts(values), *self_monitoring.alerts(values)])},
        ]
    }


def config(values: AlertValues) -> dict[str, Any]:
    """prometheus.yaml, beside the rules file."""
    prometheus = values.prometheus
    return {
        "global": {
            "scrape_interval": prometheus.interval,
            "scrape_timeout": prometheus.timeout,
            "evaluation_interval": prometheus.interval,
            "external_labels": prometheus.external_labels,
        },
        "rule_files": [RULES],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": prometheus.alertmanagers}]}]},
        "scrape_configs": [
            {"job_name": JOB, "static_configs": [{"targets": prometheus.targets}]},
            {"job_name": RAY_JOB, "file_sd_configs": [{"files": [prometheus.ray_targets_file]}]},
        ],
    }
