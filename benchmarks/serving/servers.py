"""Starts and stops the compared servers: rayfunnel, its peers, and the store that they share."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
import yaml
from pydantic import BaseModel

from benchmarks.serving.limit import BATCH
from cluster.valkey import ValkeyConfig, ValkeySupervisor
from deployments.artifact.reader import Artifact
from deployments.assembly import seed
from deployments.pipeline.batcher import BatcherConfig
from deployments.pipeline.result_cache import CacheConfig
from deployments.store.base import StoreConfig
from deployments.store.redis import RedisStore
from graphs.commands.serve import environment

READY_S = 180
STORE_PORT, PORT = 16390, 18000
URL = f"http://127.0.0.1:{PORT}"
BIN = Path(sys.executable).parent


@contextlib.contextmanager
def store(folder: Path, artifact: str) -> Iterator[None]:
    """Runs a Valkey server with the histories of the artifact."""
    supervisor = ValkeySupervisor(ValkeyConfig(port=STORE_PORT, data_dir=str(folder / "store")))
    supervisor.start()
    try:
        asyncio.run(_seed(artifact))
        yield
    finally:
        supervisor.stop()


async def _seed(artifact: str) -> None:
    client = RedisStore(StoreConfig(redis_url=f"redis://127.0.0.1:{STORE_PORT}/0", history_limit=2500))
    await seed(client, Artifact.open(artifact))
    await client.close()


def clear_caches() -> None:
    """Deletes the cache entries that earlier servers have left in the store."""
    with redis.Redis(port=STORE_PORT) as client:
        for key in client.scan_iter("*:candidates:*", count=10_000):
            client.unlink(key)


def config(
    base: str, folder: Path, name: str, plain: bool, inside: bool = False, changed: Mapping[str, str] | None = None
) -> Path:
    """A copy of the config file with the ports and the store of the benchmark. `plain`: eager fp32, no cache, no
    autoscaling; `inside`: all stages in two ingress replicas with one batch at a time, like the two workers of the
    peers; `changed`: values for keys of the batcher or the cache, else for the key in every stage.
    """
    loaded: dict[str, Any] = copy.deepcopy(yaml.safe_load(Path(base).read_text("utf-8")))
    loaded["http_options"]["port"] = PORT
    loaded["applications"] = [app for app in loaded["applications"] if app["name"] == "recommender"]
    args = loaded["applications"][0]["args"]
    args["artifact"] = str(Path(args["artifact"]).resolve())
    args["store"] = {"redis_url": f"redis://127.0.0.1:{STORE_PORT}/0", "history_limit": args["store"]["history_limit"]}
    args["pipeline"]["deadline_ms"] = 2000  # long enough for full answers from every server
    if plain:
        args["cache"] = {}
        args["drift"] = {"enabled": False}
        args["stages"]["scoring"] |= {"config": {"backend": "eager", "precision": "fp32"}, "max_replicas": 0}
        loaded["applications"][0].pop("autoscaling_policy", None)
    if inside:
        args["ingress"] = {"replicas": 2, "num_cpus": 0.5}
        args["batcher"]["in_flight"] = 1
        for stage in args["stages"].values():
            stage["placement"] = "ingress"
    owners: dict[str, type[BaseModel]] = {"batcher": BatcherConfig, "cache": CacheConfig}
    for key, value in (changed or {}).items():
        parts = [args[name] for name, owner in owners.items() if key in owner.model_fields]
        for part in parts or args["stages"].values():
            part[key] = yaml.safe_load(value)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(loaded), "utf-8")
    return path


_OURS = ["python", "-m", "graphs", "serve", "{config}"]
_QUIET = ["--port", "{port}", "--log-level", "warning"]
_UVICORN = ["uvicorn", "--workers", "2", *_QUIET, "benchmarks.serving.peers.fastapi_uvicorn:app"]
COMMANDS = {
    "rayfunnel": _OURS,
    "rayfunnel, all in ingress": _OURS,
    "rayfunnel as shipped": _OURS,
    "rayfunnel as shipped, all in ingress": _OURS,
    "stock Ray Serve": ["serve", "run", "{serve}"],
    "FastAPI + uvicorn x2, batched": _UVICORN,
    "FastAPI + uvicorn x2, per request": _UVICORN,
    "mosec x2, batched": ["python", "-m", "benchmarks.serving.peers.mosec_batched", *_QUIET],
}
"""The command of every server. ` +in_flight=3 +concurrency=1` after one of our names changes these keys."""

LIMITS = ("limit, 1 process", "limit, 2 processes")
"""The limit in two processes is the reference; one process with one request at a time gives the latency at 1 client."""


def named(name: str) -> tuple[str, dict[str, str]]:
    """Splits a name into the server and its changed keys."""
    server, *changes = re.split(r" \+(?=\w+=)", name)
    return server, dict(change.split("=") for change in changes)


@contextlib.contextmanager
def server(name: str, base: str, folder: Path) -> Iterator[str]:
    """Runs the server until the block ends; yields its URL once it answers."""
    shipped = "as shipped" in name
    name, changes = named(name)
    path = config(base, folder, "config", not shipped, "all in ingress" in name, changes)
    serve = folder / "stock.yaml"
    serve.write_text(
        yaml.safe_dump(
            {
                "http_options": {"host": "127.0.0.1", "port": PORT},
                "logging_config": {"enable_access_log": False},
                "applications": [{"name": "stock", "import_path": "benchmarks.serving.peers.stock_serve:app"}],
            }
        )
    )
    words = [word.format(config=path, serve=serve, port=PORT) for word in COMMANDS[name]]
    flags = environment() if name.startswith("rayfunnel") else dict(os.environ) | {"RAY_AUTH_MODE": "disabled"}
    flags |= {
        "RAYFUNNEL_BENCH_CONFIG": str(path),
        "RAYFUNNEL_BENCH_BATCH": "1" if "per request" in name else "64",
        "PYTHONPATH": os.getcwd(),
        "OMP_NUM_THREADS": "1",
        "MOSEC_PORT": str(PORT),
    }
    with launched(words, flags, folder / "server.log", ["/" if "mosec" in name else "/v1/health/ready"]):
        yield URL


@contextlib.contextmanager
def launched(words: Sequence[str], flags: Mapping[str, str], log_file: Path, ready: Sequence[str]) -> Iterator[None]:
    """Runs the command until the block ends; enters the block once every path in `ready` answers."""
    _wait_for_port()
    with log_file.open("w") as log:
        process = subprocess.Popen(
            [str(BIN / words[0]), *words[1:]], env=flags, stdout=log, stderr=log, start_new_session=True
        )
        try:
            for path in ready:
                _wait(process, log_file, path)
            yield
        finally:
            _stop(process)


def _wait_for_port() -> None:
    """Waits until the port is free: Serve's proxy answers for some seconds after its command has ended."""
    deadline = time.monotonic() + READY_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", PORT)):
                return
        if time.monotonic() > deadline:
            raise SystemExit(f"another server listens on port {PORT}; stop it")
        time.sleep(0.5)


def _wait(process: subprocess.Popen[bytes], log: Path, path: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not start:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(URL + path, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)


def _stop(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def limit(name: str, base: str, folder: Path, bodies: Path, seconds: float, batch: int = BATCH) -> tuple[float, float]:
    """The limit `name` (one of LIMITS): requests per second of all its processes together, and median ms of a batch."""
    path = config(base, folder, "config", plain=True)
    count = 2 if "2" in name else 1
    command = [sys.executable, "-m", "benchmarks.serving.limit", str(path), str(bodies), str(seconds), str(batch)]
    flags = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen(command, env=flags, stdout=subprocess.PIPE) for _ in range(count)]
    total, p50_ms = 0.0, 0.0
    for process in processes:
        output, _ = process.communicate(timeout=READY_S + seconds)
        if process.returncode:
            raise SystemExit("the limit could not be measured; its error is above")
        line: dict[str, float] = yaml.safe_load(output.decode().strip().splitlines()[-1])
        total += line["requests"] / line["seconds"]
        p50_ms = line["p50_ms"]
    return total, p50_ms
