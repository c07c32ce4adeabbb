"""The drift actor in a process of its own: its lines are ECS like those of the replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.drift_actor import DriftActor
from deployments.own_logs import actor_logs
from monitoring.logs import LogConfig


class LoggedDriftActor(DriftActor):
    """See `DriftActor`. `logs`: a LogConfig as a dict."""

    def __init__(self, artifact: str, settings: Mapping[str, Any], logs: Mapping[str, Any]) -> None:
        actor_logs(LogConfig.model_validate(logs), "drift")
        super().__init__(artifact, settings)
