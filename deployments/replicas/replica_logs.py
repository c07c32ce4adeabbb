"""The log files of our processes: a replica writes to the file that Serve keeps for it, an actor to one beside it.

Filebeat (monitoring/elk/filebeat.yml) ships the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import ray
from ray import serve
from ray.serve._private.logging_utils import get_serve_logs_dir

from monitoring.logs.ecs import replica_fields
from monitoring.logs.setup import LogConfig, install


def replica_logs(config: LogConfig) -> None:
    """Makes every line that this replica logs ECS; see `monitoring.logs.setup`."""
    context = serve.get_replica_context()
    install(config, replica_fields(context.app_name, context.deployment, context.replica_tag))


def actor_logs(config: LogConfig, name: str) -> None:
    """The same for an actor that a deployment owns; Serve names it `SERVE_DEPLOYMENT_ACTOR::application::…`."""
    parts = (ray.get_runtime_context().get_actor_name() or "").split("::")
    application = parts[1] if len(parts) > 2 else "rayfunnel"
    file = Path(get_serve_logs_dir()) / f"rayfunnel_{application}_{name}_{os.getpid()}.log"
    install(config, replica_fields(application, name, f"{name}-{os.getpid()}"), file)
