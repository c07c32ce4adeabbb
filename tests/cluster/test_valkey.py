"""The embedded server: adopted, restarted, never started twice, stopped."""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cluster.valkey import ValkeyConfig, ValkeyError, ValkeySupervisor
from tests.support.paths import ROOT

Supervise = Callable[..., ValkeySupervisor]


@pytest.fixture
def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def supervise(port: int, tmp_path: Path) -> Iterator[Supervise]:
    """Makes supervisors of one folder and port; all are stopped in the end."""
    made: list[ValkeySupervisor] = []

    def make(password: str = "", **fields: Any) -> ValkeySupervisor:
        config = ValkeyConfig(**{"port": port, "data_dir": str(tmp_path / "a folder")} | fields)
        made.append(ValkeySupervisor(config, password))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.stop()


@pytest.fixture
def client(port: int) -> Iterator[redis.Redis]:
    with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
        yield client


def pid(client: redis.Redis) -> int:
    return int(client.info("server")["process_id"])


def wait_until_back(client: redis.Redis, within_s: float = 2.0) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            client.ping()
            return
        except redis.RedisError:
            assert time.monotonic() < deadline, f"not back within {within_s} s"
            time.sleep(0.02)


@pytest.mark.parametrize(("appendfsync", "servers"), [("everysec", "no"), ("always", "always")])
def test_a_killed_server_restarts_within_two_seconds_with_all_acknowledged_writes(
    supervise: Supervise, client: redis.Redis, appendfsync: str, servers: str
) -> None:
    supervise(appendfsync=appendfsync).start()
    assert client.config_get("appendfsync")["appendfsync"] == servers
    for n in range(200):
        client.rpush("acknowledged", n)
    first = pid(client)
    os.kill(first, signal.SIGKILL)
    wait_until_back(client)
    assert pid(client) != first
    assert client.lrange("acknowledged", 0, -1) == [str(n).encode() for n in range(200)]


SLOW_DISK = """
#include <time.h>
static int slow(void) { struct timespec t = {1, 500000000}; nanosleep(&t, 0); return 0; }
int fsync(int file) { return slow(); }
int fdatasync(int file) { return slow(); }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="a slow disk is made with a C compiler")
def test_acknowledged_writes_survive_a_killed_server_with_a_slow_disk(
    supervise: Supervise, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "slow.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-xc", "-", "-o", library], input=SLOW_DISK.encode(), check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))  # of the server, not of this process
    supervise().start()
    acknowledged, until = 0, time.monotonic() + 2.2  # past the second in which the first fsync begins
    while time.monotonic() < until:
        acknowledged += 1
        client.rpush("acknowledged", acknowledged)
        time.sleep(0.002)
    os.kill(pid(client), signal.SIGKILL)
    wait_until_back(client, within_s=5)
    assert client.llen("acknowledged") == acknowledged


def test_writes_reach_the_disk_within_seconds(
    supervise: Supervise, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    supervise().start()
    client.set("key", "value")
    deadline = time.monotonic() + 5
    while not any(name.endswith(".incr.aof") for name in synced):
        assert time.monotonic() < deadline, synced
        time.sleep(0.05)


def test_stop_ends_the_server_and_start_finds_the_data_again(supervise: Supervise, client: redis.Redis) -> None:
    supervisor = supervise()
    supervisor.start()
    client.set("key", "value")
    supervisor.stop()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    supervisor.start()
    assert client.get("key") == b"value"


def test_a_server_outlives_its_killed_owner_and_the_next_one_adopts_it(
    supervise: Supervise, client: redis.Redis, port: int, tmp_path: Path
) -> None:
    program = (
        "import sys, time; from cluster.valkey import ValkeyConfig, ValkeySupervisor;"
        "ValkeySupervisor(ValkeyConfig(port=int(sys.argv[1]), data_dir=sys.argv[2])).start();"
        "print('up', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(port), str(tmp_path / "a folder")]
    root = ROOT
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "up\n"
        os.kill(owner.pid, signal.SIGKILL)
    first = pid(client)
    supervise(appendfsync="always").start()
    assert pid(client) == first
    assert client.config_get("appendfsync")["appendfsync"] == "always"
    os.kill(first, signal.SIGKILL)
    wait_until_back(client)


def test_supervisors_that_start_together_share_one_server(
    supervise: Supervise, client: redis.Redis, tmp_path: Path
) -> None:
    supervisors = [supervise() for _ in range(4)]
    with ThreadPoolExecutor() as threads:
        list(threads.map(ValkeySupervisor.start, supervisors))
    log = (tmp_path / "a folder" / "valkey.log").read_text()
    assert log.count("Ready to accept connections") == 1
    os.kill(pid(client), signal.SIGKILL)
    wait_until_back(client)
    for supervisor in supervisors:  # each ends a server that the rest bring back
        supervisor.stop()
    with pytest.raises(redis.ConnectionError):
        client.ping()


def test_one_folder_is_not_served_on_two_ports(supervise: Supervise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.valkey._TIMEOUT_S", 0.2)
    supervise().start()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        other = s.getsockname()[1]
    second = ValkeySupervisor(ValkeyConfig(port=other, data_dir=supervise()._config.data_dir))
    with pytest.raises(ValkeyError, match=r"a server already uses .* stop process \d+, or set the port"):
        second.start()


def test_a_port_that_serves_another_folder_is_taken(supervise: Supervise, tmp_path: Path) -> None:
    supervise().start()
    with pytest.raises(ValkeyError, match=r"port \d+ on 127.0.0.1 is taken \(a server on .*\); set a free one"):
        ValkeySupervisor(ValkeyConfig(port=supervise()._config.port, data_dir=str(tmp_path / "other"))).start()


def test_a_port_of_another_program_is_taken(port: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", port)), pytest.raises(ValkeyError, match=rf"port {port} .* is taken"):
        ValkeySupervisor(ValkeyConfig(port=port, data_dir=str(tmp_path))).start()


def test_a_port_of_a_web_server_is_taken(port: int, tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", port), http.server.BaseHTTPRequestHandler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        with pytest.raises(ValkeyError, match=rf"port {port} .* is taken"):
            ValkeySupervisor(ValkeyConfig(port=port, data_dir=str(tmp_path))).start()
        web.shutdown()
        thread.join()


def test_a_damaged_file_is_named_in_the_error(supervise: Supervise, client: redis.Redis, tmp_path: Path) -> None:
    supervisor = supervise()
    supervisor.start()
    for n in range(100):
        client.set(f"key{n}", "value")
    supervisor.stop()
    file = next((tmp_path / "a folder").glob("appendonlydir/*.incr.aof"))
    content = bytearray(file.read_bytes())
    content[500:600] = b"x" * 100
    file.write_bytes(content)
    with pytest.raises(ValkeyError, match=r"ended at once: .*appendonly\.aof"):
        supervisor.start()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, port: int) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValkeyError, match=r"data_dir .*file/store can't be used"):
        ValkeySupervisor(ValkeyConfig(port=port, data_dir=str(tmp_path / "file" / "store"))).start()


def test_another_host_needs_a_password(supervise: Supervise) -> None:
    with pytest.raises(ValkeyError, match=r"host 0\.0\.0\.0 is reachable by others: set a password"):
        supervise(host="0.0.0.0").start()


def test_a_running_server_with_another_password_is_not_adopted(supervise: Supervise) -> None:
    supervise(password="one").start()
    config = supervise(password="one")._config
    with pytest.raises(ValkeyError, match="wants another password"):
        ValkeySupervisor(config, password="two").start()
