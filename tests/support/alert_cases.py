"""One case per alert for `promtool test rules`: levels at which it fires, resolves, and must not fire.

A timeline has the values of each series per step: normal, then failing, then normal again. For counters (`_total`,
`_count`, `_bucket`) the values are increments per step; None: the series is missing; NOW: the time of the step; RISING:
100 more with each step of the phase. (Over 300 lines: a table, with an entry per alert.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = float | str | None
Levels = Mapping[str, Value]
NOW, RISING = "now", "rising"


@dataclass(frozen=True)
class Case:
    """`labels`: of the alert beyond those of its rule; `value`: `$value` as its annotations show it.

    `near`: states in which the alert must not fire however long they last. `steps`: lengths of the
    three phases, in steps of `step_s`.
    """

    alert: str
    normal: Levels
    failing: Levels
    near: tuple[Levels, ...]
    value: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    step_s: int = 60
    steps: tuple[int, int, int] = (20, 20, 20)

    @property
    def id(self) -> str:
        """For pytest."""
        return "-".join([self.alert, *self.labels.values()])

    def series(self, phases: list[tuple[Levels, int]]) -> list[dict[str, str]]:
        """As promtool's `input_series`."""
        names = {name for levels, _ in phases for name in levels}
        return [{"series": name, "values": " ".join(self._values(name, phases))} for name in sorted(names)]

    def _values(self, name: str, phases: list[tuple[Levels, int]]) -> Iterator[str]:
        counted = name.startswith("rayfunnel_") and name.split("{")[0].endswith(("_total", "_count", "_bucket"))
        total, step = 0.0, 0
        for levels, steps in phases:
            value = levels.get(name)
            for nth in range(1, steps + 1):
                if value is None:
                    yield "stale"
                elif value == NOW:
                    yield str(step * self.step_s)
                elif value == RISING:
                    yield str(100 * nth)
                else:
                    assert not isinstance(value, str)
                    total = total + value if counted else value
                    yield f"{total:.10g}"
                step += 1


OK, UNAVAILABLE, EVENTS = (
    'rayfunnel_requests_total{operation="recommend",status="200"}',
    'rayfunnel_requests_total{operation="recommend",status="503"}',
    'rayfunnel_requests_total{operation="record_events",status="202"}',
)
ALL = 'rayfunnel_request_seconds_count{operation="recommend"}'
FAST = 'rayfunnel_request_seconds_bucket{le="0.2",operation="recommend"}'
CANDIDATES = 'rayfunnel_degraded_total{reason="timeout",stage="candidates"}'
VERDICT, SCORES = 'rayfunnel_drift_verdict{signal="request.user"}', 'rayfunnel_drift_verdict{signal="score.best"}'
LAST_ANSWER = "rayfunnel_drift_actor_timestamp_seconds"
SENT, LOST = (f'rayfunnel_drift_rows_total{{outcome="{outcome}"}}' for outcome in ("sent", "lost"))
WANTED, READY = (f'rayfunnel_replicas_{which}{{deployment="Scorer"}}' for which in ("wanted", "ready"))
NODE = 'ip="10.0.0.1"'


def _gauge(alert: str, series: str, normal: Value, failing: Value, *near: Value, **rest: Any) -> Case:
    return Case(alert, {series: normal}, {series: failing}, tuple({series: value} for value in near), **rest)


def _burns() -> Iterator[Case]:
    """Per pair of windows: the long one and its steps, bad requests of 1,000 that burn too fast and just not."""
    for long, step_s, within, steps, bad, just_not, shares in (
        ("1h", 60, 60, (60, 60, 10), 40, 14, ("4%", "40%")),
        ("6h", 300, 72, (36, 72, 10), 20, 5.9, ("2%", "20%")),
        ("1d", 600, 144, (72, 144, 20), 20, 2.9, ("2%", "20%")),
        ("3d", 1800, 144, (48, 144, 20), 20, 0.99, ("2%", "20%")),
    ):
        speed = "Fast" if long in ("1h", "6h") else "Slowly"
        rest: dict[str, Any] = {"labels": {"window": long}, "step_s": step_s, "steps": steps}
        few = 9 / within  # per step: 9 bad ones in the long window
        yield Case(
            f"RayfunnelAvailabilityBurns{speed}",
            {OK: 1000, UNAVAILABLE: 0},
            {OK: 1000 - bad, UNAVAILABLE: bad},
            ({OK: 1000 - just_not, UNAVAILABLE: just_not}, {OK: few, UNAVAILABLE: few}, {OK: 1000}, {OK: 0}),
            value=shares[0],
            **rest,
        )
        yield Case(
            f"RayfunnelLatencyBurns{speed}",
            {ALL: 1000, FAST: 999},
            {ALL: 1000, FAST: 1000 - 10 * bad},
            ({ALL: 1000, FAST: 1000 - 10 * just_not}, {ALL: 2 * few, FAST: few}, {ALL: 0, FAST: 0}),
            value=shares[1],
            **rest,
        )


CASES = [
    *_burns(),
    Case(
        "RayfunnelErrors",
        {OK: 600, UNAVAILABLE: 0},
        {OK: 570, UNAVAILABLE: 30},
        ({OK: 595, UNAVAILABLE: 5}, {OK: 1, UNAVAILABLE: 1}),
        value="5%",
    ),
    Case(
        "RayfunnelShedding",
        {OK: 600, "rayfunnel_shed_total": 0},
        {OK: 600, "rayfunnel_shed_total": 12},
        ({OK: 600, "rayfunnel_shed_total": 5}, {OK: 1, "rayfunnel_shed_total": 1}),
        value="2%",
    ),
    Case(
        "RayfunnelExpiring",
        {OK: 600, "rayfunnel_expired_total": 0},
        {OK: 600, "rayfunnel_expired_total": 60},
        ({OK: 600, "rayfunnel_expired_total": 29}, {OK: 1, "rayfunnel_expired_total": 1}),
        value="10%",
    ),
    Case(
        "RayfunnelDegraded",
        {OK: 600, EVENTS: 600, CANDIDATES: 0},
        {OK: 600, EVENTS: 600, CANDIDATES: 60},
        ({OK: 600, CANDIDATES: 29}, {OK: 1, EVENTS: 600, CANDIDATES: 1}),
        value="10%",
        labels={"stage": "candidates"},
    ),
    _gauge(
        "RayfunnelStandIn",
        'rayfunnel_backend_stand_in_total{backend="eager",stage="scoring"}',
        0,
        12,
        0,
        value="60",
        labels={"stage": "scoring", "backend": "eager"},
    ),
    Case(
        "RayfunnelQueueGrowing",
        {"rayfunnel_queue_depth": 3},
        {"rayfunnel_queue_depth": RISING},
        ({"rayfunnel_queue_depth": 200}, {"rayfunnel_queue_depth": 10}),
        value="2.948k",
    ),
    _gauge(
        "RayfunnelStageQueueLong",
        'rayfunnel_stage_queue_depth{deployment="Scorer"}',
        20,
        600,
        512,
        value="600",
        labels={"deployment": "Scorer"},
    ),
    Case(
        "RayfunnelReplicasNotReady",
        {WANTED: 2, READY: 2},
        {WANTED: 2, READY: 1},
        ({WANTED: 0, READY: 0},),
        value="2",
        labels={"deployment": "Scorer"},
    ),
    _gauge(
        "RayfunnelNoRoom",
        'ray_rayfunnel_autoscaling_room{SessionName="s",stage="Scorer"}',
        -1,
        2,
        -1,
        value="2",
        labels={"stage": "Scorer"},
    ),
    _gauge("RayfunnelPolicySilent", 'ray_rayfunnel_autoscaling_target{stage="Scorer"}', 1, None, 0),
    _gauge(
        "RayfunnelNodeDown",
        'up{instance="10.0.0.1:8080",job="ray"}',
        1,
        0,
        1,
        labels={"instance": "10.0.0.1:8080", "job": "ray"},
    ),
    _gauge("RayfunnelNodesMissing", f"ray_node_cpu_count{{{NODE}}}", 8, None, 8, value="0"),
    _gauge(
        "RayfunnelCpuExhausted",
        f"ray_node_cpu_utilization{{{NODE}}}",
        50,
        97,
        94,
        value="97%",
        labels={"ip": "10.0.0.1"},
    ),
    *(
        Case(
            f"RayfunnelMemory{name}",
            {f"ray_node_mem_used{{{NODE}}}": 50, f"ray_node_mem_total{{{NODE}}}": 100},
            {f"ray_node_mem_used{{{NODE}}}": used, f"ray_node_mem_total{{{NODE}}}": 100},
            ({f"ray_node_mem_used{{{NODE}}}": just_not, f"ray_node_mem_total{{{NODE}}}": 100},),
            value=f"{used}%",
            labels={"ip": "10.0.0.1"},
        )
        for name, used, just_not in (("High", 86, 84), ("Exhausted", 94, 92))
    ),
    *(
        _gauge(
            f"RayfunnelDisk{name}",
            f"ray_node_disk_utilization_percentage{{{NODE}}}",
            50,
            used,
            just_not,
            value=f"{used}%",
            labels={"ip": "10.0.0.1"},
        )
        for name, used, just_not in (("High", 86, 84), ("Exhausted", 94, 92))
    ),
    Case(
        "RayfunnelGpuMemoryExhausted",
        {f'ray_node_gram_{what}{{GpuIndex="0",{NODE}}}': 50 for what in ("used", "available")},
        {f'ray_node_gram_used{{GpuIndex="0",{NODE}}}': 98, f'ray_node_gram_available{{GpuIndex="0",{NODE}}}': 2},
        ({f'ray_node_gram_used{{GpuIndex="0",{NODE}}}': 94, f'ray_node_gram_available{{GpuIndex="0",{NODE}}}': 6},),
        value="98%",
        labels={"ip": "10.0.0.1", "GpuIndex": "0"},
    ),
    _gauge(
        "RayfunnelEventLoopSlow",
        'rayfunnel_event_loop_lag_seconds{deployment="Ingress"}',
        0.001,
        0.25,
        0.09,
        value="250ms",
        labels={"deployment": "Ingress"},
    ),
    _gauge("RayfunnelStoreDown", "rayfunnel_store_up", 1, 0, 1),
    Case(
        "RayfunnelInputDrift",
        {VERDICT: 0},
        {VERDICT: 2, SCORES: 0},
        ({VERDICT: 1}, {VERDICT: -1}, {SCORES: 2}),
        labels={"signal": "request.user"},
    ),
    Case(
        "RayfunnelPredictionDrift",
        {SCORES: 0},
        {SCORES: 2, VERDICT: 0},
        ({SCORES: 1}, {SCORES: -1}, {VERDICT: 2}),
        labels={"signal": "score.best"},
    ),
    Case("RayfunnelDriftStale", {LAST_ANSWER: NOW}, {LAST_ANSWER: 1200}, ({LAST_ANSWER: NOW},), value="19m 0s"),
    _gauge("RayfunnelDriftSilent", VERDICT, 0, None, 0, -1, 2),
    Case("RayfunnelDriftRowsLost", {SENT: 100, LOST: 0}, {SENT: 70, LOST: 30}, ({SENT: 81, LOST: 19},), value="30%"),
    Case(
        "RayfunnelDriftBlind",
        {VERDICT: 0, SCORES: -1},
        {VERDICT: -1, SCORES: -1},
        ({VERDICT: -1, SCORES: 1},),
        step_s=300,
        steps=(10, 80, 10),
    ),
    _gauge(
        "RayfunnelDown",
        'up{instance="app:8000",job="rayfunnel"}',
        1,
        0,
        1,
        labels={"instance": "app:8000", "job": "rayfunnel"},
    ),
    Case(
        "RayfunnelSilent",
        {'up{instance="app:8000",job="rayfunnel"}': 1, "rayfunnel_hub_up": 1},
        {'up{instance="app:8000",job="rayfunnel"}': 1, "rayfunnel_hub_up": None},
        ({'up{instance="app:8000",job="rayfunnel"}': 0, "rayfunnel_hub_up": 0},),
    ),
    Case(
        "RayfunnelSilent",
        {'up{instance="app:8000",job="rayfunnel"}': 1, "rayfunnel_hub_up": 1},
        {'up{instance="ray:8080",job="ray"}': 1},
        (),
    ),
    _gauge("RayfunnelFastPathOff", "rayfunnel_fast_path_off", 0, 1, 0, value="1"),
    _gauge("RayfunnelHubDown", "rayfunnel_hub_up", 1, 0, 1),
    Case(
        "RayfunnelDeploymentSilent",
        {WANTED: 2, 'rayfunnel_snapshot_age_seconds{deployment="Scorer"}': 1},
        {WANTED: 2, 'rayfunnel_snapshot_age_seconds{deployment="Ranker"}': 1},
        (
            {WANTED: 0},
            {'rayfunnel_replicas_wanted{deployment="MetricsHub"}': 1},
        ),
        value="2",
        labels={"deployment": "Scorer"},
    ),
    _gauge("RayfunnelRaySilent", f"ray_node_cpu_count{{{NODE}}}", 8, None, 8),
]
