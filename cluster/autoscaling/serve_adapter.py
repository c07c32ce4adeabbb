"""Connects the autoscaling policy to Ray Serve: contexts → observation → decisions → targets.

serve_config.yaml names it as the application's `autoscaling_policy`. Serve calls it in its controller, where an error
would stop the scaling of every application: all errors are caught and logged. Bounds are those of each deployment's
autoscaling config.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from math import inf, isfinite
from typing import Any

from ray.serve.config import AutoscalingContext
from ray.util.metrics import Gauge

from cluster.autoscaling.capacity import StageSpec
from cluster.autoscaling.latency_model import Line
from cluster.autoscaling.observations import Counters, Observation, Report, StageObservation
from cluster.autoscaling.policy import Decision, Policy, PolicyConfig
from cluster.autoscaling.stabilization import Windows

logger = logging.getLogger("ray.serve")

Targets = tuple[dict[Any, int], dict[Any, dict[str, Any]]]

_GAUGES = ("target", "desired", "ready", "rate", "rise", "queue", "mu", "served_share", "startup_s")


class AutoscalingPolicy:
    """For `policy_function: cluster.autoscaling.serve_adapter:AutoscalingPolicy`; the arguments are `policy_kwargs`.

    `slo_ms`: latency objective; `root`: the deployment where requests arrive; `startup_s`: first guess of a
    replica's start-up time; `cpus`, `gpus`: budget of all stages; `priors`: per deployment `[a_ms, c_ms]` of s(b);
    the others are those of `PolicyConfig` and `Windows`.
    """

    def __init__(
        self,
        slo_ms: float = 500.0,
        root: str = "Ingress",
        startup_s: float = 10.0,
        cpus: float = inf,
        gpus: float = inf,
        priors: Mapping[str, list[float]] | None = None,
        stable_s: float = 300.0,
        panic_s: float = 30.0,
        dead_band: float = 0.1,
        **numbers: float,
    ) -> None:
        self._root, self._startup_s = root, startup_s
        self._priors = {name: Line(a / 1e3, c / 1e3) for name, (a, c) in (priors or {}).items()}
        windows = Windows(stable_s=stable_s, panic_s=panic_s, dead_band=dead_band)
        self._config = PolicyConfig(slo_s=slo_ms / 1e3, cpus=cpus, gpus=gpus, windows=windows, **numbers)
        self._specs: dict[str, StageSpec] = {}
        self._policy = Policy({}, self._config)
        self._logged: dict[str, tuple[int, str]] = {}
        self._gauges: dict[str, Any] = {}
        self._last_error = ""

    def __call__(self, contexts: Mapping[Any, AutoscalingContext]) -> Targets:
        """Targets by deployment; those left out stay as they are."""
        try:
            targets = self._decide(contexts)
            self._last_error = ""
            return targets, {}
        except Exception as error:
            if repr(error) != self._last_error:  # logged once, not ten times a second
                self._last_error = repr(error)
                logger.exception("the autoscaling policy failed; replicas stay as they are")
            return {}, {}

    def _decide(self, contexts: Mapping[Any, AutoscalingContext]) -> dict[Any, int]:
        root: dict[str, Report] = {}
        stages: dict[str, StageObservation] = {}
        specs: dict[str, StageSpec] = {}
        ids = {}
        now = 0.0
        for deployment, context in contexts.items():
            now = max(now, context.current_time or 0.0)
            raw = context.raw_metrics or {}
            if context.deployment_name == self._root:
                root = _reports(raw)
                continue
            name = context.deployment_name
            ids[name] = deployment
            stages[name] = StageObservation(
                ready=context.current_num_replicas, target=context.target_num_replicas, reports=_reports(raw)
            )
            specs[name] = self._spec(name, context, raw)
        if specs != self._specs:
            self._specs, self._policy = specs, Policy(specs, self._config)
        decisions = self._policy.decide(Observation(now, root, stages))
        for name, decision in decisions.items():
            self._publish(name, decision, stages[name].target)
        return {ids[name]: decision.target for name, decision in decisions.items()}

    def _spec(self, name: str, context: AutoscalingContext, raw: Mapping[str, Any]) -> StageSpec:
        before = self._specs.get(name)
        slots, batch = _latest(raw, "slots"), _latest(raw, "max_batch")
        return StageSpec(
            min_replicas=context.capacity_adjusted_min_replicas,
            max_replicas=max(1, context.capacity_adjusted_max_replicas),
            slots=int(slots) if slots >= 1 else (before.slots if before else 1),
            max_batch=int(batch) if batch >= 1 else (before.max_batch if before else 64),
            prior=self._priors.get(name, StageSpec().prior),
            num_cpus=_per_replica(raw, "num_cpus", before, 1.0),
            num_gpus=_per_replica(raw, "num_gpus", before, 0.0),
            startup_s=self._startup_s,
        )

    def _publish(self, name: str, decision: Decision, before: int) -> None:
        """A log line for every change of the target, or of whether the cluster has room; gauges for Prometheus."""
        if not self._gauges:
            self._gauges = {
                field: Gauge(f"rayfunnel_autoscaling_{field}", f"The policy's {field}, by stage.", tag_keys=("stage",))
                for field in (*_GAUGES, "room")
            }
        for field in _GAUGES:
            self._gauges[field].set(float(getattr(decision, field)), tags={"stage": name})
        self._gauges["room"].set(float(-1 if decision.room is None else decision.room), tags={"stage": name})
        state = (decision.target, "no room" if decision.room is not None else "")
        if decision.target != before or state != self._logged.get(name, state):
            facts = {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(decision).items()}
            logger.info(
                "autoscaling %s: %d → %d (%s) %s",
                name,
                before,
                decision.target,
                decision.reason,
                " ".join(f"{key}={value}" for key, value in facts.items() if key not in ("stage", "target", "reason")),
                extra={"ray_serve_extra_fields": _fields(facts)},
            )
        self._logged[name] = state


def _fields(facts: Mapping[str, Any]) -> dict[str, Any]:
    """For Ray's JSON log, by their names in the Elastic Common Schema."""
    return {"event.action": "autoscaling", **{f"rayfunnel.autoscaling.{key}": value for key, value in facts.items()}}


def _reports(raw: Mapping[str, Any]) -> dict[str, Report]:
    """The latest report of every replica that has sent all counters."""
    reports: dict[str, Report] = {}
    series = [raw.get(name, {}) for name in Counters._fields]
    queued = raw.get("queued", {})
    for replica in series[0]:
        points = [values[replica][-1] for values in series if values.get(replica)]
        if len(points) == len(series):
            waiting = queued.get(replica)
            reports[str(replica)] = Report(
                points[0].timestamp, Counters(*[point.value for point in points]), waiting[-1].value if waiting else 0.0
            )
    return reports


def _per_replica(raw: Mapping[str, Any], name: str, before: StageSpec | None, default: float) -> float:
    """CPUs or GPUs of one replica, as the replicas report; without a report, the last known number."""
    if raw.get(name):
        return _latest(raw, name)
    return float(getattr(before, name)) if before else default


def _latest(raw: Mapping[str, Any], name: str) -> float:
    """The largest of the replicas' latest values; 0 if there is none."""
    values = [points[-1].value for points in raw.get(name, {}).values() if points]
    return max((float(value) for value in values if isfinite(value)), default=0.0)
