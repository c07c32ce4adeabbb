"""The schema of values.yaml, from which the alerts are rendered, and its merge with values of one's own.

Over 300 lines: a value a field, each with its sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from monitoring.deep_merge import deep_merge
from monitoring.metrics.declarations import SECONDS

DEFAULTS = Path(__file__).with_name("values.yaml")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"([0-9]+(ms|[smhdw]))+")


def seconds(duration: str) -> float:
    """Seconds of a duration in Prometheus' notation."""
    return sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"([0-9]+)(ms|[smhdw])", duration))


def _duration(text: str) -> str:
    if not _DURATION.fullmatch(text):
        raise ValueError("must be a duration as in Prometheus: 30s, 5m, 1h30m")
    return text


Duration = Annotated[str, AfterValidator(_duration)]
Share = Annotated[float, Field(gt=0, lt=1)]
ReceiverKind = Literal["email", "sns", "sms_bridge", "pagerduty", "slack", "webhook"]


class StrictValues(BaseModel):
    """Unknown keys are errors, and there are no defaults: values.yaml states every value."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)


class PrometheusValues(StrictValues):
    """Targets and intervals of scrapes."""

    interval: Duration
    """Pause between scrapes, and between evaluations of the rules."""
    timeout: Duration
    """How long a scrape may take."""
    targets: list[str]
    """Where the application answers `GET /metrics`."""
    ray_targets_file: str
    """The file in which Ray lists its nodes, on the head node."""
    alertmanagers: list[str]
    """Where Prometheus sends alerts."""
    external_labels: dict[str, str]
    """Labels of every alert."""


class BurnWindow(StrictValues):
    """A pair of windows: alert if the error budget burns `factor` times too fast in both."""

    factor: float = Field(gt=0)
    """How many times faster than allowed the budget burns."""
    long: Duration
    """Window over which the rate must be significant."""
    short: Duration
    """Window over which it must go on."""
    for_: Duration = Field(alias="for")
    """How long both must be true before the alert fires."""
    severity: Literal["page", "ticket"]
    """A page needs a person now, a ticket in working hours."""


class Objective(StrictValues):
    """A share of good requests."""

    objective: Share
    """Share of requests that must be good."""


class LatencyObjective(Objective):
    """A good request is answered within `threshold_s`."""

    threshold_s: float
    """Longest time of a good request; the bound of one of the histogram's buckets."""

    @model_validator(mode="after")
    def _is_a_bucket(self) -> LatencyObjective:
        if self.threshold_s not in SECONDS:
            raise ValueError(f"threshold_s must be the bound of a bucket: {', '.join(map(str, SECONDS))}")
        return self


class SloValues(StrictValues):
    """Objectives and the windows of their alerts."""

    availability: Objective
    """Requests without a 5xx."""
    latency: LatencyObjective
    """Recommend, rank and similar requests answered in time."""
    min_bad: int = Field(ge=1)
    """Fewest bad requests in the long window for an alert."""
    windows: list[BurnWindow]
    """The pairs of windows, an alert per pair and objective."""

    @model_validator(mode="after")
    def _can_burn(self) -> SloValues:
        for window in self.windows:
            for name, slo in (("availability", self.availability), ("latency", self.latency)):
                if window.factor * (1 - slo.objective) >= 1:
                    raise ValueError(f"{name}: no traffic burns {1 - slo.objective:.3g} {window.factor} times too fast")
        return self


class TrafficValues(StrictValues):
    """Shares of the answers over `window`."""

    window: Duration
    """Window of all shares."""
    min_rate: float = Field(ge=0)
    """Requests/s below which there is no alert."""
    for_: Duration = Field(alias="for")
    """How long a share must be above its threshold."""
    errors: Share
    """Answers with 5xx."""
    shed: Share
    """Requests refused with 503 because a limit was reached."""
    expired: Share
    """Answers given at the deadline, before the last stage."""
    degraded: Share
    """Answers in which a stage was replaced by its fallback, per stage."""


class QueueValues(StrictValues):
    """Lengths of the queues."""

    window: Duration
    """Window from which the growth is predicted."""
    for_: Duration = Field(alias="for")
    """How long the condition must be true."""
    bound: int
    """`batcher.max_queue` of serve_config.yaml."""
    horizon: Duration
    """The queue grows if it would reach `bound` within this time."""
    floor: int
    """Fewest requests that must wait now."""
    stage: int
    """Requests that wait at the replicas of a stage all through the window."""


class ReplicaValues(StrictValues):
    """Wanted and ready replicas."""

    for_: Duration = Field(alias="for")
    """How long wanted and ready must differ."""
    no_room_for: Duration
    """How long the policy must want more replicas than the cluster has room for."""
    autoscaled: bool
    """Whether a stage has `max_replicas`, so that the policy must report metrics."""


class TwoShares(StrictValues):
    """The thresholds of a ticket and of a page."""

    ticket: Share
    """From here on, a ticket."""
    page: Share
    """From here on, a page."""


class ResourceValues(StrictValues):
    """Shares of resources in use."""

    for_: Duration = Field(alias="for")
    """How long a share must be above its threshold."""
    cpu: Share
    """Of a node."""
    memory: TwoShares
    """Of a node; Ray kills workers from 0.95 on."""
    gpu_memory: Share
    """Of a GPU."""
    disk: TwoShares
    """Of the disk that holds Ray's folder; Ray stops spilling at 0.95."""
    event_loop_lag_s: float = Field(gt=0)
    """How late tasks start, in the slowest replica."""


class StoreValues(StrictValues):
    """The store is down."""

    for_: Duration = Field(alias="for")
    """How long the store must not answer."""


class NodeValues(StrictValues):
    """Number of nodes."""

    expected: int = Field(ge=1)
    """Nodes that the Ray cluster must have."""
    for_: Duration = Field(alias="for")
    """How long a node must be missing, or not answer."""


class DriftValues(StrictValues):
    """Drift verdicts, and the drift actor."""

    enabled: bool
    """As `drift.enabled` in serve_config.yaml."""
    for_: Duration = Field(alias="for")
    """How long a signal must drift; a verdict rests on several windows already."""
    stale_s: float = Field(gt=0)
    """Seconds since the drift actor last answered an ingress replica."""
    lost: Share
    """Share of the sampled rows that the drift actor did not accept."""
    blind_for: Duration
    """How long no signal has had enough data for a verdict."""


class MonitorValues(StrictValues):
    """The monitoring itself."""

    for_: Duration = Field(alias="for")
    """How long a target, a series or the metrics hub must be missing."""


class Email(StrictValues):
    """SMTP."""

    to: str
    """Address of the receiver."""
    from_: str = Field(alias="from")
    """Address of the sender."""
    smarthost: str
    """Host and port of the server."""
    username: str
    """User at the server; empty: no authentication."""
    password_file: str
    """File with the password."""
    require_tls: bool
    """Whether a connection without TLS is refused."""


class Sns(StrictValues):
    """Amazon SNS."""

    region: str
    """Region of the topic."""
    topic_arn: str
    """The topic. Credentials: the machine's role, or a profile of `~/.aws`."""


class Webhook(StrictValues):
    """A POST with a bearer token."""

    url: str
    """Address of the POST."""
    token_file: str
    """File with the token; empty: no token."""


class PagerDuty(StrictValues):
    """Events API v2."""

    routing_key_file: str
    """File with the integration's key."""


class Slack(StrictValues):
    """An incoming webhook."""

    channel: str
    """Channel of the messages."""
    api_url_file: str
    """File with the webhook's address."""


class Receivers(StrictValues):
    """Where notifications can be sent."""

    email: Email
    """E-mail."""
    sns: Sns
    """SMS by Amazon SNS."""
    sms_bridge: Webhook
    """SMS by another provider: `python -m monitoring.alerts.sms_bridge`."""
    pagerduty: PagerDuty
    """PagerDuty."""
    slack: Slack
    """Slack."""
    webhook: Webhook
    """Any other service."""


class Routes(StrictValues):
    """Receivers per severity; empty: alerts are shown, not sent."""

    page: list[ReceiverKind]
    """Receivers of pages."""
    ticket: list[ReceiverKind]
    """Receivers of tickets."""
    watchdog: list[ReceiverKind]
    """Receivers of the heartbeat: a service that raises an alarm when the heartbeat stops."""


class AlertmanagerValues(StrictValues):
    """Routes, receivers and intervals of notifications."""

    group_wait: Duration
    """Alerts that fire within this time share one notification."""
    group_interval: Duration
    """Pause before a notification about new alerts of a group."""
    repeat_interval: Duration
    """Pause before a notification is repeated."""
    resolve_timeout: Duration
    """Time after which an alert that Prometheus no longer sends counts as resolved."""
    watchdog_every: Duration
    """Pause between heartbeats."""
    routes: Routes
    """Receivers per severity."""
    receivers: Receivers
    """How each receiver is reached."""


class AlertValues(StrictValues):
    """The whole file."""

    prometheus: PrometheusValues
    """Targets and intervals of scrapes."""
    slo: SloValues
    """Objectives of the service."""
    traffic: TrafficValues
    """Thresholds of errors, refused, late and degraded answers."""
    queue: QueueValues
    """Thresholds of the queues."""
    replicas: ReplicaValues
    """When replicas are missing."""
    resources: ResourceValues
    """Thresholds of the nodes' resources."""
    store: StoreValues
    """When the store is down."""
    nodes: NodeValues
    """When nodes are missing."""
    drift: DriftValues
    """When drift is an alert."""
    monitor: MonitorValues
    """When the monitoring itself fails."""
    runbook: str
    """Address of the runbook; each alert links its section."""
    alertmanager: AlertmanagerValues
    """How notifications are sent."""


def load(own: Mapping[str, Any] | str | Path | None = None) -> AlertValues:
    """values.yaml with `own` values (or a file of them) laid over it; lists are replaced whole.

    Raises:
        ValueError: a key or value is wrong.
    """
    if isinstance(own, str | Path):
        own = yaml.safe_load(Path(own).read_text("utf-8")) or {}
    return AlertValues.model_validate(deep_merge(yaml.safe_load(DEFAULTS.read_text("utf-8")), own or {}))
