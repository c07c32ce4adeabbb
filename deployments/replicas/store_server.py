"""What the application `store` deploys: a replica that keeps the embedded server running."""

from __future__ import annotations

import asyncio
import os

from cluster.valkey import ValkeyConfig, ValkeyError, ValkeySupervisor
from deployments.errors import ConfigError
from deployments.replicas.replica_logs import replica_logs
from deployments.store.base import PASSWORD_VARIABLE
from monitoring.logs.setup import LogConfig


class StoreServer:
    """Owns the server. A killed one is back in a fraction of a second; one left by a killed owner is adopted."""

    def __init__(self, config: ValkeyConfig) -> None:
        replica_logs(LogConfig())
        self._server = ValkeySupervisor(config, os.environ.get(PASSWORD_VARIABLE, ""))
        try:
            self._server.start()
        except ValkeyError as error:
            raise ConfigError(str(error)) from error

    def url(self) -> str:
        """Where clients connect; without the password."""
        return self._server.url

    async def check_health(self) -> None:
        """For Serve: fails if the server is dead and can't be started."""
        await asyncio.to_thread(self._server.check)

    def __del__(self) -> None:
        if hasattr(self, "_server"):
            self._server.stop()
