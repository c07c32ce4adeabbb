"""A Redis server that the cluster does not manage."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import redis

from cluster.valkey import _binary
from tests.support.processes import free_port, wait_for


class ExternalRedis:
    """A server that keeps its data over a restart."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder, "appendonly": "yes", "save": ""}
        command = [str(_binary()), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with redis.Redis(port=self.port) as client:
            wait_for("the test's Redis", lambda: _responds(client))

    def stop(self) -> None:
        if self.process:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.terminate()
            self.process.wait(10)
            self.process = None


def _responds(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
