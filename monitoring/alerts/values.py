"""The values that the alerts are rendered from: values.yaml, with values of one's own laid over it."""

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
    """Of a duration as Prometheus writes it."""
    return sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"([0-9]+)(ms|[smhdw])", duration))


def _duration(text: str) -> str:
    if not _DURATION.fullmatch(text):
        raise ValueError("must be a duration as in Prometheus: 30s, 5m, 1h30m")
    return text


Duration = Annotated[str, AfterValidator(_duration)]
Share = Annotated[float, Field(gt=0, lt=1)]
Kind = Literal["email", "sns", "sms_bridge", "pagerduty", "slack", "webhook"]


class Values(BaseModel):
    """No unknown key, and no default: values.yaml states all."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class PrometheusValues(Values):
    """What is scraped, and how often."""

    interval: Duration
    timeout: Duration
    targets: list[str]
    ray_targets_file: str
    alertmanagers: list[str]
    external_labels: dict[str, str]


class Window(Values):
    """A pair of windows in which the error budget burns `factor` times too fast."""

    factor: float = Field(gt=0)
    long: Duration
    short: Duration
    for_: Duration = Field(alias="for")
    severity: Literal["page", "ticket"]


class Objective(Values):
    """Share of requests that must be good."""

    objective: Share


class LatencyObjective(Objective):
    """Good: answered within `threshold_s`."""

    threshold_s: float

    @model_validator(mode="after")
    def _is_a_bucket(self) -> LatencyObjective:
        if self.threshold_s not in SECONDS:
            raise ValueError(f"threshold_s must be the bound of a bucket: {', '.join(map(str, SECONDS))}")
        return self


class SloValues(Values):
    """Objectives and the windows of their alerts."""

    availability: Objective
    latency: LatencyObjective
    min_bad: int = Field(ge=1)
    windows: list[Window]

    @model_validator(mode="after")
    def _can_burn(self) -> SloValues:
        for window in self.windows:
            for name, slo in (("availability", self.availability), ("latency", self.latency)):
                if window.factor * (1 - slo.objective) >= 1:
                    raise ValueError(f"{name}: no traffic burns {1 - slo.objective:.3g} {window.factor} times too fast")
        return self


class TrafficValues(Values):
    """Shares of the answers over `window`."""

    window: Duration
    min_rate: float = Field(ge=0)
    for_: Duration = Field(alias="for")
    errors: Share
    shed: Share
    expired: Share
    degraded: Share


class QueueValues(Values):
    """Requests that wait."""

    window: Duration
    for_: Duration = Field(alias="for")
    bound: int
    horizon: Duration
    floor: int
    stage: int


class ReplicaValues(Values):
    """Wanted and ready."""

    for_: Duration = Field(alias="for")
    no_room_for: Duration
    autoscaled: bool


class TwoShares(Values):
    """From where on a ticket, from where on a page."""

    ticket: Share
    page: Share


class ResourceValues(Values):
    """Shares in use."""

    for_: Duration = Field(alias="for")
    cpu: Share
    memory: TwoShares
    gpu_memory: Share
    disk: TwoShares
    event_loop_lag_s: float = Field(gt=0)


class StoreValues(Values):
    """The store is down."""

    for_: Duration = Field(alias="for")


class NodeValues(Values):
    """Nodes that must be there."""

    expected: int = Field(ge=1)
    for_: Duration = Field(alias="for")


class DriftValues(Values):
    """Verdicts, and the actor that gives them."""

    enabled: bool
    for_: Duration = Field(alias="for")
    stale_s: float = Field(gt=0)
    lost: Share
    blind_for: Duration


class MonitorValues(Values):
    """Whether what watches is there itself."""

    for_: Duration = Field(alias="for")


class Email(Values):
    """SMTP. `username` empty: no authentication."""

    to: str
    from_: str = Field(alias="from")
    smarthost: str
    username: str
    password_file: str
    require_tls: bool


class Sns(Values):
    """Amazon SNS."""

    region: str
    topic_arn: str


class Webhook(Values):
    """A POST with a bearer token. `token_file` empty: without."""

    url: str
    token_file: str


class PagerDuty(Values):
    """Events API v2."""

    routing_key_file: str


class Slack(Values):
    """An incoming webhook."""

    channel: str
    api_url_file: str


class Receivers(Values):
    """How to reach somebody."""

    email: Email
    sns: Sns
    sms_bridge: Webhook
    pagerduty: PagerDuty
    slack: Slack
    webhook: Webhook


class Routes(Values):
    """Per severity what it is sent by; empty: it is only shown."""

    page: list[Kind]
    ticket: list[Kind]
    watchdog: list[Kind]


class AlertmanagerValues(Values):
    """Who is told, and how often."""

    group_wait: Duration
    group_interval: Duration
    repeat_interval: Duration
    resolve_timeout: Duration
    watchdog_every: Duration
    routes: Routes
    receivers: Receivers


class AlertValues(Values):
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
