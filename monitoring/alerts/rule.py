"""An alerting rule of Prometheus, and the parts of expressions that rules share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Rule = dict[str, Any]

JOB, RAY_JOB = "rayfunnel", "ray"
"""Scrape jobs: the application's own metrics, and those of Ray's nodes."""

WANTED, READY = (f'rayfunnel_replicas_{which}{{deployment!="MetricsHub"}}' for which in ("wanted", "ready"))
"""Replicas per deployment, without the hub: it does not report to itself."""

SERVING = 'operation=~"recommend|rank|similar"'
"""Selects the operations that a caller waits for; not events."""


@dataclass(frozen=True)
class Alert:
    """`name`: also of its section in the runbook. `concern`: a page silences tickets of the same concern.

    `summary` and `description` may contain Prometheus' templates.
    """

    name: str
    expr: str
    for_: str
    severity: str
    concern: str
    summary: str
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def rule(self, runbook: str) -> Rule:
        """The entry in a rules file; `runbook`: address of the runbook."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.for_,
            "labels": {"severity": self.severity, "concern": self.concern, **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{runbook}#{self.name.lower()}",
            },
        }


def record(name: str, expr: str) -> Rule:
    """A recording rule."""
    return {"record": name, "expr": expr}


def rate(series: str, window: str, by: str = "") -> str:
    """Events per second, summed."""
    return f"sum{f' by ({by})' if by else ''} (rate({series}[{window}]))"


def number(value: float) -> str:
    """The number in PromQL, rounded to 10 digits."""
    return f"{value:.10g}"
