"""An alerting rule of Prometheus, and expressions that several of them are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Rule = dict[str, Any]

JOB, RAY_JOB = "rayfunnel", "ray"
"""Of the scrapes: the application's own metrics, and those of Ray's nodes."""

WANTED, READY = (f'rayfunnel_replicas_{which}{{deployment!="MetricsHub"}}' for which in ("wanted", "ready"))
"""Replicas of each deployment that reports; the hub does not report to itself."""

SERVING = 'operation=~"recommend|rank|similar"'
"""Selects the operations that somebody waits for."""


@dataclass(frozen=True)
class Alert:
    """`concern`: what it is about; a page silences the tickets of the same. `name`: also of its runbook paragraph.

    `summary` and `description` may hold Prometheus' templates.
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
        """As in a rules file."""
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
    """As PromQL reads it, without the dust of binary fractions."""
    return f"{value:.10g}"
