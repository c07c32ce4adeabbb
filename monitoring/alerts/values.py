"""The schema of values.yaml, from which the alerts are rendered, and its merge with values of one's own."""

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

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PrometheusValues(StrictValues):
    """Targets and intervals of scrapes."""

    interval: Duration
    timeout: Duration
    targets: list[str]
    ray_targets_file: str
    alertmanagers: list[str]
    external_labels: dict[str, str]


class BurnWindow(StrictValues):
    """A pair of windows: alert if the error budget burns `factor` times too fast in both."""

    factor: float = Field(gt=0)
    long: Duration
    short: Duration
    for_: Duration = Field(alias="for")
    severity: Literal["page", "ticket"]


class Objective(StrictValues):
    """`objective`: share of requests that must be good."""

    objective: Share


class LatencyObjective(Objective):
    """A good request is answered within `threshold_s`."""

    threshold_s: float

    @model_validator(mode="after")
    def _is_a_bucket(self) -> LatencyObjective:
        if self.threshold_s not in SECONDS:
            raise ValueError(f"threshold_s must be the bound of a bucket: {', '.join(map(str, SECONDS))}")
        return self


class SloValues(StrictValues):
    """Objectives and the windows of their alerts."""

    availability: Objective
    latency: LatencyObjective
    min_bad: int = Field(ge=1)
    windows: list[BurnWindow]

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
    min_rate: float = Field(ge=0)
    for_: Duration = Field(alias="for")
    errors: Share
    shed: Share
    expired: Share
    degraded: Share


class QueueValues(StrictValues):
    """Lengths of the queues."""

    window: Duration
    for_: Duration = Field(alias="for")
    bound: int
    horizon: Duration
    floor: int
    stage: int


class ReplicaValues(StrictValues):
    """Wanted and ready replicas."""

    for_: Duration = Field(alias="for")
    no_room_for: Duration
    autoscaled: bool


class TwoShares(StrictValues):
    """The thresholds of a ticket and of a page."""

    ticket: Share
    page: Share


class ResourceValues(StrictValues):
    """Shares of resources in use."""

    for_: Duration = Field(alias="for")
    cpu: Share
    memory: TwoShares
    gpu_memory: Share
    disk: TwoShares
    event_loop_lag_s: float = Field(gt=0)


class StoreValues(StrictValues):
    """The store is down."""

    for_: Duration = Field(alias="for")


class NodeValues(StrictValues):
    """Number of nodes."""

    expected: int = Field(ge=1)
    for_: Duration = Field(alias="for")


class DriftValues(StrictValues):
    """Drift verdicts, and the drift actor."""

    enabled: bool
    for_: Duration = Field(alias="for")
    stale_s: float = Field(gt=0)
    lost: Share
    blind_for: Duration


class MonitorValues(StrictValues):
    """The monitoring itself."""

    for_: Duration = Field(alias="for")


class Email(StrictValues):
    """SMTP. `username` empty: no authentication."""

    to: str
    from_: str = Field(alias="from")
    smarthost: str
    username: str
    password_file: str
    require_tls: bool


class Sns(StrictValues):
    """Amazon SNS."""

    region: str
    topic_arn: str


class Webhook(StrictValues):
    """A POST with a bearer token. `token_file` empty: without."""

    url: str
    token_file: str


class PagerDuty(StrictValues):
    """Events API v2."""

    routing_key_file: str


class Slack(StrictValues):
    """An incoming webhook."""

    channel: str
    api_url_file: str


class Receivers(StrictValues):
    """Where notifications can be sent."""

    email: Email
    sns: Sns
    sms_bridge: Webhook
    pagerduty: PagerDuty
    slack: Slack
    webhook: Webhook


class Routes(StrictValues):
    """Receivers per severity; empty: alerts are shown, not sent."""

    page: list[ReceiverKind]
    ticket: list[ReceiverKind]
    watchdog: list[ReceiverKind]


class AlertmanagerValues(StrictValues):
    """Routes, receivers and intervals of notifications."""

    group_wait: Duration
    group_interval: Duration
    repeat_interval: Duration
    resolve_timeout: Duration
    watchdog_every: Duration
    routes: Routes
    receivers: Receivers


class AlertValues(StrictValues):
    """The whole file."""

    prometheus: PrometheusValues
    slo: SloValues
    traffic: TrafficValues
    queue: QueueValues
    replicas: ReplicaValues
    resources: ResourceValues
    store: StoreValues
    nodes: NodeValues
    drift: DriftValues
    monitor: MonitorValues
    runbook: str
    alertmanager: AlertmanagerValues


def load(own: Mapping[str, Any] | str | Path | None = None) -> AlertValues:
    """values.yaml with `own` values (or a file of them) laid over it; lists are replaced whole.

    Raises:
        ValueError: a key or value is wrong.
    """
    if isinstance(own, str | Path):
        own = yaml.safe_load(Path(own).read_text("utf-8")) or {}
    return AlertValues.model_validate(deep_merge(yaml.safe_load(DEFAULTS.read_text("utf-8")), own or {}))
