"""Service level objectives, and alerts on the rate at which their error budgets burn.

An alert fires while the budget burns `factor` times too fast over a long window (it is significant) and over a short
one (it goes on): multi-window, multi-burn-rate alerts of Beyer et al., The Site Reliability Workbook (2018), chapter 5.
It also needs `min_bad` bad requests in the long window, so that one failure at night does not page.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from monitoring.alerts.rule import SERVING, Alert, Rule, number, record
from monitoring.alerts.values import AlertValues, BurnWindow, seconds


@dataclass(frozen=True)
class Slo:
    """An objective: PromQL for the number of bad and of all requests in a window."""

    name: str
    title: str
    bad: Callable[[str], str]
    all: Callable[[str], str]
    objective: float

    def recorded(self, which: str, window: str) -> str:
        """Name of the recorded series of the `bad` or of `all` requests in a window."""
        return f"rayfunnel:{self.name}_{which}:increase{window}"

    def records(self, windows: list[str]) -> list[Rule]:
        """Recording rules of both series, for every window."""
        rules = []
        for window in windows:
            rules.append(record(self.recorded("all", window), self.all(window)))
            # Without bad requests their series may not exist yet: count 0.
            rules.append(record(self.recorded("bad", window), f"{self.bad(window)} or {self.all(window)} * 0"))
        return rules

    def burns(self, window: str, times: float) -> str:
        """PromQL: true while the budget burns more than `times` too fast."""
        share = f"{self.recorded('bad', window)} / {self.recorded('all', window)}"
        return f"{share} > {number(times * (1 - self.objective))}"

    def alert(self, window: BurnWindow, min_bad: int) -> Alert:
        """The alert of one pair of windows."""
        speed = "Fast" if window.severity == "page" else "Slowly"
        enough = f"{self.recorded('bad', window.long)} >= {min_bad}"
        return Alert(
            name=f"Rayfunnel{self.name.capitalize()}Burns{speed}",
            expr=f"{self.burns(window.long, window.factor)} and {self.burns(window.short, window.factor)} and {enough}",
            for_=window.for_,
            severity=window.severity,
            concern=self.name,
            summary=f"{self.title}: the error budget burns {window.factor:g} times too fast",
            description=f"{{{{ $value | humanizePercentage }}}} of requests were bad in the last {window.long}; "
            f"{100 * (1 - self.objective):.3g} % are allowed.",
            labels={"window": window.long},
        )


def slos(values: AlertValues) -> list[Slo]:
    """The objectives: availability and latency."""
    slo = values.slo
    good = f'rayfunnel_request_seconds_bucket{{{SERVING},le="{slo.latency.threshold_s}"}}'
    served = f"rayfunnel_request_seconds_count{{{SERVING}}}"
    return [
        Slo(
            "availability",
            "Availability",
            bad=lambda window: f'sum (increase(rayfunnel_requests_total{{status=~"5.."}}[{window}]))',
            all=lambda window: f"sum (increase(rayfunnel_requests_total[{window}]))",
            objective=slo.availability.objective,
        ),
        Slo(
            "latency",
            f"Answers within {slo.latency.threshold_s:g} s",
            bad=lambda window: f"sum (increase({served}[{window}])) - sum (increase({good}[{window}]))",
            all=lambda window: f"sum (increase({served}[{window}]))",
            objective=slo.latency.objective,
        ),
    ]


def records(values: AlertValues) -> list[Rule]:
    """The recording rules that the alerts use."""
    windows = {w for pair in values.slo.windows for w in (pair.long, pair.short)}
    ordered = sorted(windows, key=seconds)
    return [rule for slo in slos(values) for rule in slo.records(ordered)]


def alerts(values: AlertValues) -> list[Alert]:
    """One per objective and pair of windows."""
    return [slo.alert(window, values.slo.min_bad) for slo in slos(values) for window in values.slo.windows]
