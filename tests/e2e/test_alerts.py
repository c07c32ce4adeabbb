"""Alerts end to end: the real application, Prometheus and Alertmanager, and where the mails and calls arrive."""

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
"""Series that need not exist, by pattern, and why."""

_SELECTOR = re.compile(r"(?<![\w:])((?:ray_)?rayfunnel[_:][\w:]+|ray_node_\w+|up|ALERTS)\b(\{[^}]*\})?")


@dataclass
class Watched:
    """The application and all that watches it."""

    cluster: Cluster
    values: AlertValues
    prometheus: Api
    mails: Mails
    calls: Calls

    def told(self, status: str, name: str, **labels: str) -> bool:
        """Whether a mail and a call have come that say so."""
        mailed = f"[{status.upper()}] {name} (rayfunnel)" in self.mails.subjects
        alerts = [alert for body in self.calls.bodies for alert in body["alerts"] if alert["status"] == status]
        wanted = {"alertname": name, **labels}.items()
        return mailed and any(wanted <= alert["labels"].items() for alert in alerts)


@pytest.fixture(scope="module")
def monitors(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Everything in short intervals."""
    tool("prometheus")
    tool("prometheus-alertmanager")
    folder = tmp_path_factory.mktemp("monitors")
    smtp, manager, port = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        mails, calls = stack.enter_context(mail_server(smtp)), stack.enter_context(http_server())
        email = {"smarthost": f"127.0.0.1:{smtp}", "username": "", "require_tls": False}
        hook = {"url": calls.url, "token_file": ""}
        told = ["email", "webhook"]
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
                "routes": {"page": told, "ticket": told, "watchdog": []},
                "receivers": {"email": email, "webhook": hook},
            },
        }
        values = load(own)
        write(values, folder)
        stack.enter_context(alertmanager(folder, manager))
        yield Watched(cluster, values, stack.enter_context(prometheus(folder, port)), mails, calls)


@pytest.fixture
def watched(watching: Cluster, monitors: Watched) -> Watched:
    return monitors


def test_a_stopped_store_is_told_by_mail_and_call_and_so_is_its_return(watched: Watched) -> None:
    wait_for("a healthy store", lambda: query(watched.prometheus, "rayfunnel_store_up == 1"))
    pid = int((watched.cluster.store_folder / "valkey.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for("the alert", lambda: watched.told("firing", "RayfunnelStoreDown", severity="page"))
        assert not watched.told("resolved", "RayfunnelStoreDown")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for("its end", lambda: watched.told("resolved", "RayfunnelStoreDown", severity="page"))
    mail = watched.mails.mails[watched.mails.subjects.index("[FIRING] RayfunnelStoreDown (rayfunnel)")]
    text = mail.get_body(("plain",))
    assert text is not None
    assert "README.md#rayfunnelstoredown" in text.get_content()


def test_many_new_users_are_told_as_drift_of_the_inputs(watched: Watched) -> None:
    told = {"signal": "request.user", "severity": "ticket"}
    with Load(watched.cluster.url, rate=50):
        usual = 'max(rayfunnel_drift_verdict{signal="request.user"}) == 0'
        wait_for("verdicts of usual traffic", lambda: query(watched.prometheus, usual))
    assert not watched.told("firing", "RayfunnelInputDrift", **told)
    with Load(watched.cluster.url, rate=50, prefix="stranger"):
        wait_for("the alert", lambda: watched.told("firing", "RayfunnelInputDrift", **told))


def test_every_expression_of_rules_and_dashboards_names_series_that_exist(watched: Watched) -> None:
    asked = {rule["expr"] for group in rules(watched.values)["groups"] for rule in group["rules"]}
    shown = {
        expr.replace("$__rate_interval", "30s")
        for panels in dashboards(watched.values).values()
        for panel in panels
        for _, expr in panel.queries
    }
    selectors = {"".join(found) for expr in asked | shown for found in _SELECTOR.findall(expr)}
    assert len(selectors) > 50
    event = {"events": [{"user_id": "u1", "item_id": "i1", "event_type": "view", "timestamp": 1.6e9}]}
    assert watched.cluster.client.post("/v1/events", json=event).status_code == 202
    hurried = {"user_id": "u1", "deadline_ms": 10}

    def nothing(exprs: set[str]) -> set[str]:
        return {e for e in exprs if not query(watched.prometheus, e) and not any(re.search(p, e) for p in MISSING_HERE)}

    # Strangers keep the alert of the test before firing, so that ALERTS is there.
    with Load(watched.cluster.url, rate=50, prefix="stranger"):
        for _ in range(5):
            watched.cluster.client.post("/v1/recommend", json=hurried)
        missing: set[str] = selectors | shown

        def all_there() -> bool:
            nonlocal missing
            missing = nothing(missing)
            return not missing

        try:
            wait_for("series for every expression", all_there, within_s=40, every_s=1)
        except AssertionError:
            raise AssertionError(f"no series for {sorted(missing)}") from None


def test_the_rules_are_healthy_in_prometheus(watched: Watched) -> None:
    groups = watched.prometheus.get("/api/v1/rules").raise_for_status().json()["data"]["groups"]
    ill = {rule["name"]: rule["lastError"] for group in groups for rule in group["rules"] if rule["health"] == "err"}
    assert groups
    assert not ill
