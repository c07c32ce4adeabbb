"""Alertmanager's file: amtool accepts it, alerts go to their receivers, and some silence others."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.alerts.__main__ import RENDERED, write
from monitoring.alerts.prometheus import alerts
from monitoring.alerts.values import AlertValues, load
from tests.support.monitors import alertmanager, inhibited, send_alerts, tool
from tests.support.processes import free_port

EVERY_KIND = ["email", "sns", "sms_bridge", "pagerduty", "slack", "webhook"]
NO_ONE: dict[str, Any] = {"alertmanager": {"routes": {"page": [], "ticket": [], "watchdog": []}, "group_wait": "0s"}}


def amtool(*arguments: str | Path) -> str:
    done = subprocess.run([tool("amtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_accepts_the_file_with_every_kind_of_receiver(tmp_path: Path) -> None:
    routes = {"page": EVERY_KIND, "ticket": EVERY_KIND, "watchdog": EVERY_KIND}
    write(load({"alertmanager": {"routes": routes}}), tmp_path)
    assert "3 receivers" in amtool("check-config", tmp_path / "alertmanager.yaml")
    receivers = yaml.safe_load((tmp_path / "alertmanager.yaml").read_text())["receivers"]
    assert [len(receiver["webhook_configs"]) for receiver in receivers] == [2, 2, 2]
    for kind in ("email", "sns", "pagerduty", "slack"):
        assert all(len(receiver[f"{kind}_configs"]) == 1 for receiver in receivers), kind


def test_every_secret_is_in_a_file() -> None:
    text = (RENDERED / "alertmanager.yaml").read_text("utf-8")
    for secret in ("auth_password:", "routing_key:", "api_url:", "credentials:", "secret_key:"):
        assert secret not in text


@pytest.mark.parametrize("severity", ["page", "ticket", "watchdog"])
def test_every_alert_is_routed_to_the_receiver_of_its_severity(severity: str) -> None:
    values = load()
    for alert in (alert for alert in alerts(values) if alert.severity == severity):
        labels = {"alertname": alert.name, "severity": severity, "concern": alert.concern.replace(" ", "_")}
        config = f"--config.file={RENDERED / 'alertmanager.yaml'}"
        pairs = [f"{name}={value}" for name, value in labels.items()]
        assert amtool("config", "routes", "test", config, f"--verify.receivers={severity}", *pairs)


def test_an_alert_of_an_unknown_severity_goes_to_the_tickets() -> None:
    amtool(
        *("config", "routes", "test", f"--config.file={RENDERED / 'alertmanager.yaml'}", "--verify.receivers=ticket"),
        "alertname=SomebodyElses",
    )


def labels_of(values: AlertValues, name: str, **more: str) -> dict[str, str]:
    """The labels of an alert as Prometheus sends them."""
    alert = next(alert for alert in alerts(values) if alert.name == name)
    own = {"alertname": name, "severity": alert.severity, "concern": alert.concern, "cluster": "rayfunnel"}
    return own | dict(alert.labels) | more


@pytest.mark.server
def test_a_lost_node_silences_alerts_on_replicas_and_a_page_silences_its_tickets(tmp_path: Path) -> None:
    values = load(NO_ONE)
    write(values, tmp_path)
    scorer, node, other = {"deployment": "Scorer"}, {"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}
    with alertmanager(tmp_path, free_port()) as api:
        send_alerts(
            api,
            labels_of(values, "RayfunnelReplicasNotReady", **scorer),
            labels_of(values, "RayfunnelDeploymentSilent", **scorer),
            labels_of(values, "RayfunnelMemoryHigh", **other),
            labels_of(values, "RayfunnelMemoryExhausted", **node),
            labels_of(values, "RayfunnelErrors"),
            labels_of(values, "RayfunnelInputDrift", signal="request.user"),
            labels_of(values, "RayfunnelStoreDown"),
        )
        assert inhibited(api, bool, within_s=1) == set()
        send_alerts(
            api, labels_of(values, "RayfunnelAvailabilityBurnsFast"), labels_of(values, "RayfunnelMemoryHigh", **node)
        )
        silenced = {"RayfunnelErrors", "RayfunnelMemoryHigh"}
        assert inhibited(api, lambda found: found == silenced) == silenced
        send_alerts(api, labels_of(values, "RayfunnelNodeDown", instance="10.0.0.1:8080") | {"cluster": "another"})
        assert inhibited(api, lambda found: found != silenced, within_s=1) == silenced
        send_alerts(api, labels_of(values, "RayfunnelNodeDown", instance="10.0.0.1:8080"))
        silenced |= {"RayfunnelReplicasNotReady", "RayfunnelDeploymentSilent", "RayfunnelMemoryExhausted"}
        assert inhibited(api, lambda found: found == silenced) == silenced
