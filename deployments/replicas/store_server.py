"""The deployment of the application `store`: a replica that keeps the embedded Valkey server running."""

from __future__ import annotations

import asyncio
import os

from cluster.valkey import ValkeyConfig, ValkeyError, ValkeySupervisor
from deployments.errors import ConfigError
from deployments.replicas.replica_logs import replica_logs
from deployments.store.base import PASSWORD_VARIABLE
from monitoring.logs.setup import LogConfig


class StoreServer:
    """Owns the server. It restarts a killed server within a second, and adopts one whose owner was killed."""

    def __init__(self, config: ValkeyConfig) -> None:
        replica_logs(LogConfig())
        self._server = ValkeySupervisor(config, os.environ.get(PASSWORD_VARIABLE, ""))
        try:
            self._server.start()
        except ValkeyError as error:
            raise ConfigError(str(error)) from error

    def url(self) -> str:
        """The address for clients, without the password."""
        return self._server.url

    async def check_health(self) -> None:
        """Raises if the server is dead and can't be started; Serve then replaces the replica."""
        await asyncio.to_thread(self._server.check)

    def __del__(self) -> None:
        if hasattr(self, "_server"):
            self._server.stop()
