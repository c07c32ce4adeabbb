"""Alerts end to end: the application, Prometheus, Alertmanager, and the receivers of mails and webhook calls."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from monitoring.alerts.__main__ import write
from monitoring.alerts.prometheus import rules
from monitoring.alerts.values import AlertValues, load
from monitoring.dashboards.panels import dashboards
from tests.support.load import Load
from tests.support.monitors import Api, alertmanager, prometheus, query, tool
from tests.support.processes import free_port, wait_for
from tests.support.ray_cluster import Cluster
from tests.support.sinks import Calls, Mails, http_server, mail_server

MISSING_HERE = {
    r"gpu|gram": "there is no GPU",
    r"stand_in": "the configured backend runs",
    r'status=~"5': "nothing fails while it is healthy",
}
"""Pattern of series that need not exist → the reason."""

_SELECTOR = re.compile(r"(?<![\w:])((?:ray_)?rayfunnel[_:][\w:]+|ray_node_\w+|up|ALERTS)\b(\{[^}]*\})?")


@dataclass
class Monitored:
    """The application and its monitoring."""

    cluster: Cluster
    values: AlertValues
    prometheus: Api
    mails: Mails
    calls: Calls

    def notified(self, status: str, name: str, **labels: str) -> bool:
        """Whether a mail and a webhook call with this alert have come."""
        mailed = f"[{status.upper()}] {name} (rayfunnel)" in self.mails.subjects
        alerts = [alert for body in self.calls.bodies for alert in body["alerts"] if alert["status"] == status]
        wanted = {"alertname": name, **labels}.items()
        return mailed and any(wanted <= alert["labels"].items() for alert in alerts)


@pytest.fixture(scope="module")
def monitors(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """Everything in short intervals."""
    tool("prometheus")
    tool("prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("monitors")
    smtp, manager, port = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        mails, calls = stack.enter_context(mail_server(smtp)), stack.enter_context(http_server())
        email = {"smarthost": f"127.0.0.1:{smtp}", "username": "", "require_tls": False}
        hook = {"url": calls.url, "token_file": ""}
        receivers = ["email", "webhook"]
        own: dict[str, Any] = {
            "prometheus": {
                "interval": "1s",
                "timeout": "1s",
                "targets": [f"127.0.0.1:{cluster.http_port}"],
                "ray_targets_file": str(cluster.metrics_targets),
                "alertmanagers": [f"127.0.0.1:{manager}"],
            },
            "store": {"for": "1s"},
            "drift": {"for": "0s"},
            "alertmanager": {
                "group_wait": "0s",
                "group_interval": "1s",
                "routes": {"page": receivers, "ticket": receivers, "watchdog": []},
                "receivers": {"email": email, "webhook": hook},
            },
        }
        values = load(own)
        write(values, folder)
        stack.enter_context(alertmanager(folder, manager))
        yield Monitored(cluster, values, stack.enter_context(prometheus(folder, port)), mails, calls)


@pytest.fixture
def monitored(observed: Cluster, monitors: Monitored) -> Monitored:
    return monitors


def test_a_stopped_store_and_its_return_are_sent_by_mail_and_webhook(monitored: Monitored) -> None:
    wait_for("a healthy store", lambda: query(monitored.prometheus, "rayfunnel_store_up == 1"))
    pid = int((monitored.cluster.store_folder / "valkey.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for("the alert", lambda: monitored.notified("firing", "RayfunnelStoreDown", severity="page"))
        assert not monitored.notified("resolved", "RayfunnelStoreDown")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for("its end", lambda: monitored.notified("resolved", "RayfunnelStoreDown", severity="page"))
    mail = monitored.mails.mails[monitored.mails.subjects.index("[FIRING] RayfunnelStoreDown (rayfunnel)")]
    text = mail.get_body(("plain",))
    assert text is not None
    assert "docs/alerts.md#rayfunnelstoredown" in text.get_content()


def test_many_new_users_raise_the_alert_for_drift_of_the_inputs(monitored: Monitored) -> None:
    labels = {"signal": "request.user", "severity": "ticket"}
    with Load(monitored.cluster.url, rate=50):
        usual = 'max(rayfunnel_drift_verdict{signal="request.user"}) == 0'
        wait_for("verdicts of usual traffic", lambda: query(monitored.prometheus, usual))
    assert not monitored.notified("firing", "RayfunnelInputDrift", **labels)
    with Load(monitored.cluster.url, rate=50, prefix="stranger"):
        wait_for("the alert", lambda: monitored.notified("firing", "RayfunnelInputDrift", **labels))


def test_every_expression_of_rules_and_dashboards_names_series_that_exist(monitored: Monitored) -> None:
    asked = {rule["expr"] for group in rules(monitored.values)["groups"] for rule in group["rules"]}
    shown = {
        expr.replace("$__rate_interval", "30s")
        for panels in dashboards(monitored.values).values()
        for panel in panels
        for _, expr in panel.queries
    }
    selectors = {"".join(found) for expr in asked | shown for found in _SELECTOR.findall(expr)}
    assert len(selectors) > 50
    event = {"events": [{"user_id": "u1", "item_id": "i1", "event_type": "view", "timestamp": 1.6e9}]}
    assert monitored.cluster.client.post("/v1/events", json=event).status_code == 202
    hurried = {"user_id": "u1", "deadline_ms": 10}

    def nothing(exprs: set[str]) -> set[str]:
        return {
            e for e in exprs if not query(monitored.prometheus, e) and not any(re.search(p, e) for p in MISSING_HERE)
        }

    # Strangers keep the alert of the test before firing, so that ALERTS is there.
    with Load(monitored.cluster.url, rate=50, prefix="stranger"):
        for _ in range(5):
            monitored.cluster.client.post("/v1/recommend", json=hurried)
        missing: set[str] = selectors | shown

        def all_there() -> bool:
            nonlocal missing
            missing = nothing(missing)
            return not missing

        try:
            wait_for("series for every expression", all_there, within_s=40, every_s=1)
        except AssertionError:
            raise AssertionError(f"no series for {sorted(missing)}") from None


def test_the_rules_are_healthy_in_prometheus(monitored: Monitored) -> None:
    groups = monitored.prometheus.get("/api/v1/rules").raise_for_status().json()["data"]["groups"]
    ill = {rule["name"]: rule["lastError"] for group in groups for rule in group["rules"] if rule["health"] == "err"}
    assert groups
    assert not ill
