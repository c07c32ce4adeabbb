"""Alerts on drift: of inputs, of predictions, and on the drift actor and its samples."""

from __future__ import annotations

from monitoring.alerts.rule import Alert, number, rate
from monitoring.alerts.values import AlertValues
from monitoring.metrics.declarations import VERDICTS

INPUTS = "(input|request|embedding)[.].*"
PREDICTIONS = "(retrieval|score|answer)[.].*"
"""Regular expressions of drift signals."""


def alerts(values: AlertValues) -> list[Alert]:
    """All alerts of this file; none if drift is off."""
    drift = values.drift
    if not drift.enabled:
        return []
    rows = "rayfunnel_drift_rows_total"
    last_answer = "max(rayfunnel_drift_actor_timestamp_seconds)"
    w = values.traffic.window
    unsent = rate(f'{rows}{{outcome=~"lost|dropped"}}', w)

    def drifts(name: str, title: str, signals: str) -> Alert:
        return Alert(
            name=name,
            expr=f'max by (signal) (rayfunnel_drift_verdict{{signal=~"{signals}"}}) == {VERDICTS["DRIFT"]}',
            for_=drift.for_,
            severity="ticket",
            concern="drift",
            summary=f"{title} drift: {{{{ $labels.signal }}}}",
            description="Live traffic differs from the model's reference in this signal; see GET /v1/drift.",
        )

    return [
        drifts("RayfunnelInputDrift", "Inputs", INPUTS),
        drifts("RayfunnelPredictionDrift", "Predictions", PREDICTIONS),
        Alert(
            name="RayfunnelDriftStale",
            expr=f"time() - {last_answer} > {number(drift.stale_s)}",
            for_=values.monitor.for_,
            severity="ticket",
            concern="drift monitor",
            summary="The drift actor does not answer",
            description="Its last answer is {{ $value | humanizeDuration }} old; verdicts are not updated.",
        ),
        Alert(
            name="RayfunnelDriftSilent",
            expr="absent(rayfunnel_drift_verdict)",
            for_=values.monitor.for_,
            severity="ticket",
            concern="drift monitor",
            summary="There are no drift verdicts",
            description="No ingress replica has had an answer from the drift actor.",
        ),
        Alert(
            name="RayfunnelDriftRowsLost",
            expr=f"{unsent} / {rate(rows, w)} > {number(drift.lost)}",
            for_=values.monitor.for_,
            severity="ticket",
            concern="drift monitor",
            summary="Sampled requests do not reach the drift actor",
            description=f"{{{{ $value | humanizePercentage }}}} were lost in the last {w}.",
        ),
        Alert(
            name="RayfunnelDriftBlind",
            expr=f"max(rayfunnel_drift_verdict) == {VERDICTS['INSUFFICIENT_DATA']}",
            for_=drift.blind_for,
            severity="ticket",
            concern="drift monitor",
            summary="No signal has enough data for a drift verdict",
            description=f"For {drift.blind_for} every window has had too few requests.",
        ),
    ]
