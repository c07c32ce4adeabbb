"""One Ray cluster on free ports, used as an operator does: `ray start`, and the REST calls of `serve deploy`.

The tests' process never connects to Ray, so Ray's threads, sockets and flags stay out of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from graphs.commands.serve import environment
from tests.support.paths import ROOT
from tests.support.processes import free_port, free_range, wait_for, with_environment
from tests.support.serve_config import Config, application, recommender_args

DIRECT_PORTS = 201
"""Ports that ingress replicas of one cluster may listen on."""


@dataclass(frozen=True)
class Replica:
    """One replica as Serve shows it."""

    deployment: str
    replica_id: str
    pid: int


class Node:
    """Another `ray start` on this machine, whose CPUs and GPUs exist in name only; `kill` acts like a power cut."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self._process, self._mark = process, mark

    def pids(self) -> set[int]:
        """All of its processes."""
        return set(with_environment(self._mark))

    def kill(self) -> None:
        """SIGKILL to all of its processes at once: none can shut down in order."""
        while pids := self.pids():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            time.sleep(0.05)
        self._process.wait()


class Cluster:
    """`ray start` in a process of its own, with the flags of cluster/serve.env; its CPUs and GPUs exist in name only.

    `flags`: more environment of its Ray processes.
    """

    def __init__(self, cpus: int = 8, gpus: int = 2, flags: dict[str, str] | None = None) -> None:
        self._shares = {"num-cpus": cpus, "num-gpus": gpus}
        self._nodes: list[Node] = []
        self._folder = Path(tempfile.mkdtemp(prefix="rf", dir="/tmp"))  # short: sockets lie deep below it
        self.store_folder = self._folder / "store"
        self.gcs_port, self._dashboard_port = free_port(), free_port()
        self.http_port, self.store_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.address = f"127.0.0.1:{self.gcs_port}"
        self.dashboard = f"http://127.0.0.1:{self._dashboard_port}"
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self._api = httpx.Client(base_url=f"{self.dashboard}/api/serve", timeout=60)
        self._deployed: Config | None = None
        first = free_range(DIRECT_PORTS)
        self.environment = environment() | {
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + DIRECT_PORTS - 1),
            # Shorter than serve.env's, but longer than HAProxy's reload (0.9 s on a busy machine) and a pause of the
            # tests' clients: what comes on a kept connection just as the old replica closes it is lost.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        }
        self.environment |= flags or {}

    def __enter__(self) -> Self:
        options = {
            "port": self.gcs_port,
            "node-ip-address": "127.0.0.1",
            "dashboard-port": self._dashboard_port,
            "dashboard-agent-listen-port": free_port(),
            "ray-client-server-port": free_port(),
            "object-store-memory": 100_000_000,
            "temp-dir": self._folder,
        } | self._shares
        self._process = self._start("--head", options, self.environment)
        wait_for("the cluster's dashboard", lambda: self._running() and self._api.get("/applications/").is_success)
        return self

    def _start(self, how: str, options: dict[str, Any], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "start", how, "--block", *(f"--{name}={value}" for name, value in options.items())]
        with (self._folder / "ray.log").open("a") as log:
            return subprocess.Popen(
                command, env=environment, cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )

    def add_node(self, cpus: int, gpus: int = 0, **labels: str) -> Node:
        """Adds a node. Returns once its sockets exist: two nodes that start together would choose the same names."""
        sockets = self._folder / "session_latest" / "sockets"
        before = set(sockets.glob("plasma_store*"))
        options = {
            "node-ip-address": "127.0.0.1",
            "num-cpus": cpus,
            "num-gpus": gpus,
            "labels": ",".join(f"rayfunnel.io/{name}={value}" for name, value in labels.items()),
            "dashboard-agent-listen-port": free_port(),
            "min-worker-port": 0,  # any free one: the head's workers take theirs from the default range
            "max-worker-port": 0,
            "object-store-memory": 100_000_000,
            "temp-dir": self._folder,
        }
        name = f"{self.gcs_port}/{len(self._nodes) + 1}"
        process = self._start(f"--address={self.address}", options, self.environment | {"RAYFUNNEL_NODE": name})
        self._nodes.append(Node(process, f"RAYFUNNEL_NODE={name}\0"))
        wait_for("the node's sockets", lambda: set(sockets.glob("plasma_store*")) - before)
        return self._nodes[-1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._nodes:  # else replicas run on nodes that are killed below
                with contextlib.suppress(httpx.HTTPError):
                    self.shut_down()
        finally:
            for node in self._nodes:
                node.kill()
            if self._nodes:  # the head would wait for its nodes
                self._process.kill()
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            for pid in with_environment(self.mark):  # those that outlived `ray start`
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.client.close()
            self._api.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _running(self) -> bool:
        assert self._process.poll() is None, (self._folder / "ray.log").read_text()[-3000:]
        return True

    @property
    def mark(self) -> str:
        """An entry that only this cluster's processes have in their environment."""
        return f"RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT={self.environment['RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT']}\0"

    @property
    def metrics_targets(self) -> Path:
        """Where Ray lists its own metrics endpoints for Prometheus."""
        return self._folder / "prom_metrics_service_discovery.json"

    def config(self, artifact: str) -> Config:
        """serve_config.yaml on this cluster's ports, over the small artifact, with a share of a GPU for the Scorer."""
        config: Config = yaml.safe_load((ROOT / "serve_config.yaml").read_text("utf-8"))
        config["http_options"]["port"] = self.http_port
        application(config, "store")["args"] |= {"port": self.store_port, "data_dir": str(self.store_folder)}
        args = recommender_args(config)
        args["artifact"] = artifact
        # The machine is shared. The tests compare answers and set no latency, so the store may take more than 50 ms.
        args["store"] |= {"port": self.store_port, "timeout_ms": 300}
        args["pipeline"]["deadline_ms"] = 2000
        args["stages"]["candidates"]["config"]["n_candidates"] = 100
        args["stages"]["scoring"]["num_gpus"] = 0.25
        args["stages"]["scoring"]["max_replicas"] = 0  # tests count replicas; test_autoscaling.py sets its own bounds
        return config

    def submit(self, config: Config) -> None:
        """Does as `serve deploy`; returns at once."""
        self._deployed = None
        self._api.put("/applications/", json=config).raise_for_status()

    def deploy(self, config: Config) -> None:
        """Submits `config`, unless it runs already; waits until all applications run and the recommender is ready."""
        if config == self._deployed:
            return
        self.submit(config)
        self.wait_until_running({app["name"] for app in config["applications"]})
        self._deployed = config

    def wait_until_running(self, names: set[str]) -> None:
        """Until all of the applications `names` run, and the recommender is ready."""

        def running() -> bool:
            shown = self.applications()
            failed = {name: app["message"] for name, app in shown.items() if app["status"] == "DEPLOY_FAILED"}
            assert not failed, failed
            return set(shown) == names and all(app["status"] == "RUNNING" for app in shown.values())

        try:
            wait_for(f"{', '.join(names)} deployed", running)
        except AssertionError as error:
            error.add_note("\n".join(self._messages()))
            raise
        if "recommender" in names:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Until the recommender answers and the store has the histories of the artifact."""

        def ready() -> bool:
            answer = self.client.get("/v1/health/ready")
            return answer.is_success and bool(
                self.client.get("/demo/history", params={"user_id": "u1"}).json()["events"]
            )

        wait_for("the recommender ready", ready)

    def shut_down(self) -> None:
        """Ends Serve with all applications (`serve shutdown`); the cluster stays."""
        self._deployed = None
        self._api.delete("/applications/").raise_for_status()

        def gone() -> bool:
            shown = self._api.get("/applications/").raise_for_status().json()
            return not shown["applications"] and not shown["proxies"]

        wait_for("Serve gone", gone)

    def applications(self) -> dict[str, Any]:
        """Per application the details of which `serve status` shows a part."""
        answer = self._api.get("/applications/")
        return answer.json()["applications"] if answer.is_success else {}

    def states(self) -> dict[str, tuple[str, dict[str, str]]]:
        """Per application its status, and that of its deployments."""
        return {
            name: (app["status"], {name: d["status"] for name, d in app["deployments"].items()})
            for name, app in self.applications().items()
        }

    def _messages(self) -> Iterator[str]:
        """The status and message of every application and deployment, for debugging."""
        for name, app in self.applications().items():
            yield f"{name}: {app['status']} {app['message']}"
            for deployment, details in app["deployments"].items():
                states = [(replica["state"], replica.get("pid")) for replica in details["replicas"]]
                yield f"  {deployment}: {details['status']} {details['message']} {states}"

    def replicas(self, name: str = "recommender") -> list[Replica]:
        """The running replicas of an application, by deployment."""
        return [
            Replica(deployment, replica["replica_id"], replica["pid"])
            for deployment, details in sorted(self.applications()[name]["deployments"].items())
            for replica in details["replicas"]
            if replica["state"] == "RUNNING"
        ]

    @property
    def folder(self) -> Path:
        """The files of the cluster, without those that a configuration puts elsewhere."""
        return self._folder

    @property
    def logs(self) -> Path:
        """Ray Serve's log files."""
        return self._folder / "session_latest/logs/serve"

    def controller_log(self) -> str:
        """The messages that Serve's controller has logged."""
        lines = (line for path in self.logs.glob("controller_*.log") for line in path.read_text("utf-8").splitlines())
        return "\n".join(str(json.loads(line)["message"]) for line in lines)

    def recommend(self, user_id: str, **fields: Any) -> dict[str, Any]:
        """The answer over HTTP; asserts that its status is 200."""
        answer = self.client.post("/v1/recommend", json={"user_id": user_id, "deadline_ms": 10_000} | fields)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body
