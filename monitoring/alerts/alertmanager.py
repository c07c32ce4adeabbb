"""Alertmanager's file: routes per severity, receivers, and inhibitions. Secrets stay in files of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from monitoring.alerts.values import AlertmanagerValues, AlertValues, Receivers, Webhook

Config = dict[str, Any]

_TITLE = "[{{ .Status | toUpper }}] {{ .CommonLabels.alertname }}{{ with .CommonLabels.cluster }} ({{ . }}){{ end }}"
_EACH = "{{ .Annotations.summary }}\n{{ .Annotations.description }}\n{{ .Annotations.runbook_url }}\n"
_TEXT = f"{{{{ range .Alerts }}}}{_EACH}{{{{ end }}}}"
_SMS = "{{ .Status | toUpper }} {{ .CommonLabels.alertname }}: {{ (index .Alerts 0).Annotations.summary }}"


def config(values: AlertValues) -> Config:
    """alertmanager.yaml."""
    manager = values.alertmanager
    severities: dict[str, list[Any]] = manager.routes.model_dump()
    return {
        "global": {"resolve_timeout": manager.resolve_timeout},
        "route": {
            "receiver": "ticket",  # also for alerts of any other severity
            "group_by": ["cluster", "alertname"],
            "group_wait": manager.group_wait,
            "group_interval": manager.group_interval,
            "repeat_interval": manager.repeat_interval,
            "routes": [_route(severity, manager) for severity in severities],
        },
        "inhibit_rules": _inhibitions(),
        "receivers": [_receiver(name, kinds, manager.receivers) for name, kinds in severities.items()],
    }


def _route(severity: str, manager: AlertmanagerValues) -> Config:
    route: Config = {"receiver": severity, "matchers": [f'severity="{severity}"']}
    if severity == "watchdog":
        every = manager.watchdog_every
        route |= {"group_wait": "0s", "group_interval": every, "repeat_interval": every}
    return route


def _inhibitions() -> list[Config]:
    """While a source alert fires, its target alerts are not sent, within a cluster."""
    return [
        {  # A page makes tickets on the same concern superfluous, except on another node.
            "source_matchers": ['severity="page"'],
            "target_matchers": ['severity="ticket"'],
            "equal": ["cluster", "concern", "ip"],
        },
        {
            "source_matchers": ['alertname=~"RayfunnelNodeDown|RayfunnelNodesMissing"'],
            "target_matchers": ['scope="replica"'],
            "equal": ["cluster"],
        },
        {  # Without the application's metrics, alerts on their absence say nothing new.
            "source_matchers": ['alertname=~"RayfunnelDown|RayfunnelSilent"'],
            "target_matchers": ['alertname=~"RayfunnelDrift(Silent|Stale)|RayfunnelHubDown|RayfunnelDeploymentSilent"'],
            "equal": ["cluster"],
        },
        {
            "source_matchers": ['alertname="RayfunnelRaySilent"'],
            "target_matchers": ['alertname=~"RayfunnelPolicySilent|RayfunnelNodesMissing"'],
            "equal": ["cluster"],
        },
    ]


def _receiver(name: str, kinds: list[str], receivers: Receivers) -> Config:
    receiver: Config = {"name": name}
    for kind in kinds:
        field, entry = _KINDS[kind](receivers)
        receiver.setdefault(field, []).append(entry)
    return receiver


def _email(receivers: Receivers) -> tuple[str, Config]:
    email = receivers.email
    entry: Config = {
        "to": email.to,
        "from": email.from_,
        "smarthost": email.smarthost,
        "require_tls": email.require_tls,
        "headers": {"Subject": _TITLE},
        "html": "",
        "text": _TEXT,
        "send_resolved": True,
    }
    if email.username:
        entry |= {"auth_username": email.username, "auth_password_file": email.password_file}
    return "email_configs", entry


def _sns(receivers: Receivers) -> tuple[str, Config]:
    sns = receivers.sns
    return "sns_configs", {
        "topic_arn": sns.topic_arn,
        "sigv4": {"region": sns.region},
        "subject": _TITLE,
        "message": _SMS,
        "send_resolved": True,
    }


def _webhook(webhook: Webhook) -> tuple[str, Config]:
    entry: Config = {"url": webhook.url, "send_resolved": True}
    if webhook.token_file:
        entry["http_config"] = {"authorization": {"type": "Bearer", "credentials_file": webhook.token_file}}
    return "webhook_configs", entry


def _pagerduty(receivers: Receivers) -> tuple[str, Config]:
    return "pagerduty_configs", {
        "routing_key_file": receivers.pagerduty.routing_key_file,
        "description": _TITLE,
        "severity": "critical",
        "send_resolved": True,
    }


def _slack(receivers: Receivers) -> tuple[str, Config]:
    return "slack_configs", {
        "channel": receivers.slack.channel,
        "api_url_file": receivers.slack.api_url_file,
        "title": _TITLE,
        "text": _TEXT,
        "send_resolved": True,
    }


_KINDS: Mapping[str, Callable[[Receivers], tuple[str, Config]]] = {
    "email": _email,
    "sns": _sns,
    "sms_bridge": lambda receivers: _webhook(receivers.sms_bridge),
    "pagerduty": _pagerduty,
    "slack": _slack,
    "webhook": lambda receivers: _webhook(receivers.webhook),
}
