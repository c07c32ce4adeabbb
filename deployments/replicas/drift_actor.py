"""The drift actor: a `DriftServer` in a process of its own, with ECS log lines like those of the replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.replicas.replica_logs import actor_logs
from deployments.telemetry import drift_server
from monitoring.logs.setup import LogConfig


class DriftActor(drift_server.DriftServer):
    """See `DriftServer`. `logs`: a LogConfig as a dict."""

    def __init__(self, artifact: str, model_version: str, settings: Mapping[str, Any], logs: Mapping[str, Any]) -> None:
        actor_logs(LogConfig.model_validate(logs), "drift")
        super().__init__(artifact, settings, model_version)
