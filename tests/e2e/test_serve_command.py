"""`python -m graphs serve`, as the README has it, on the cluster of the session."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.paths import ROOT
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config

MOST_KB = 40_000
"""Resident memory of the process that waits beside `serve run`; after the check, which loads every model, in itself it
would hold 750 MB."""


def test_serve_says_when_it_is_ready_stays_small_and_stops_in_order(
    cluster: Cluster, config: Config, tmp_path: Path
) -> None:
    cluster.shut_down()
    path, log = tmp_path / "config.yaml", tmp_path / "serve.log"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "graphs", "serve", str(path)]
    flags = {"RAY_ADDRESS": cluster.address, "TMPDIR": str(tmp_path)}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=cluster.environment | flags, stdout=out, stderr=out)
    try:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            return "rayfunnel is ready after " in log.read_text()

        wait_for("the line that says so", ready)
        assert f"{path}: every key and value is as it should be\n" in log.read_text()
        assert len(cluster.recommend("u1")["items"]) == 10
        assert resident_kb(process.pid) < MOST_KB
        args = cluster.applications()["recommender"]["deployed_app_config"]["args"]
        assert args["model_version"] == cluster.recommend("u1")["model_version"], "Serve sees which model it is"
        (rendered,) = tmp_path.glob("rayfunnel-*")
        assert stat.S_IMODE(rendered.stat().st_mode) == 0o700
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert list(tmp_path.glob("rayfunnel-*")) == []
        wait_for("no application", lambda: not cluster.applications())
    finally:
        process.kill()
        process.wait()


def resident_kb(pid: int) -> int:
    """VmRSS of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
