"""Ray Serve's own autoscaling law for the simulator: Ray's functions, called with Ray's context and config.

Only the surroundings of the law are imitated: handles push their ongoing requests every `metrics_interval_s`, the
controller averages them over `look_back_period_s`, and the clock is the simulator's. Ongoing requests are counted as
requests and not as batches, which favours the law.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Mapping
from typing import Any

from ray.serve import autoscaling_policy
from ray.serve._private.common import DeploymentID
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from cluster.autoscaling.observations import Observation
from cluster.simulator.funnel import SimulatedFunnel
from cluster.simulator.reference_policies import OngoingMean
from cluster.simulator.traces import Trace

law: Any = autoscaling_policy


class ServeLaw:
    """One law per stage, as in Serve. `numbers`: fields of AutoscalingConfig."""

    def __init__(self, funnel: SimulatedFunnel, **numbers: float) -> None:
        self._configs: dict[str, AutoscalingConfig] = {}
        self._states: dict[str, dict[str, Any]] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # metrics_interval_s is deprecated, its successors are not read
            for name, spec in funnel.specs.items():
                bounds = {"min_replicas": max(1, spec.min_replicas), "max_replicas": spec.max_replicas}
                self._configs[name] = AutoscalingConfig(**bounds, **numbers)
                self._states[name] = {}
        first = next(iter(self._configs.values()))
        self._look_back_s, self._interval_s = first.look_back_period_s, first.metrics_interval_s
        self._means = OngoingMean(self._look_back_s + self._interval_s)
        self._law = law._apply_autoscaling_config(law._core_replica_queue_length_policy)
        self._pushed_at = 0.0

    def decide(self, observation: Observation) -> Mapping[str, int]:
        """The targets that Serve's controller would set now."""
        self._means.add(observation)
        if observation.now >= self._pushed_at + self._interval_s:
            self._pushed_at = observation.now
        law.time = types.SimpleNamespace(time=lambda: observation.now)  # the clock of the law's delays
        try:
            return {name: self._one(name, observation) for name in self._configs}
        finally:
            law.time = _TIME

    def _one(self, name: str, observation: Observation) -> int:
        config, stage = self._configs[name], observation.stages[name]
        ongoing = self._means.mean(name, self._pushed_at - self._look_back_s, self._pushed_at)
        context = AutoscalingContext(
            deployment_id=DeploymentID(name, "app"),
            deployment_name=name,
            app_name="app",
            current_num_replicas=stage.ready,
            target_num_replicas=stage.target,
            running_replicas=[],
            total_num_requests=ongoing,
            total_queued_requests=0.0,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=config.min_replicas,
            capacity_adjusted_max_replicas=config.max_replicas,
            policy_state=self._states[name],
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=observation.now,
            config=config,
        )
        wanted, self._states[name] = self._law(context)
        return max(config.min_replicas, min(config.max_replicas, int(wanted)))


_TIME: Any = law.time


def default(funnel: SimulatedFunnel, trace: Trace) -> ServeLaw:
    """The law with Serve's defaults."""
    return ServeLaw(funnel)
