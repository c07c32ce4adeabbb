"""Drift on the real cluster: verdicts come over HTTP, and a killed actor costs no answer and comes back."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.support.load import Load
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster


def pid_of_the_actor(cluster: Cluster) -> int:
    """The worker that holds this cluster's drift actor, as Ray names its process."""
    mark = cluster.mark.encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"DriftActor" in (folder / "cmdline").read_bytes() and mark in (folder / "environ").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    return 0


def test_verdicts_appear_and_outlive_a_killed_actor_that_costs_no_answer(observed: Cluster) -> None:
    cluster = observed

    def judged(after: float) -> dict[str, Any] | None:
        answer = cluster.client.get("/v1/drift")
        report = answer.json() if answer.is_success else {}
        return report if report.get("windows") and report["watched_since"] > after else None

    with Load(cluster.url, rate=40) as load:
        report = wait_for("verdicts", lambda: judged(0.0))
        assert "input.history_length" in report["signals"]
        assert report["verdict"] in ("OK", "WARN", "DRIFT")
        assert "rayfunnel_drift_verdict{" in cluster.client.get("/metrics").text
        assert cluster.client.get("/drift").status_code == 200

        pid = pid_of_the_actor(cluster)
        assert pid, "the actor runs in no process"
        os.kill(pid, signal.SIGKILL)
        killed = time.time()
        meanwhile = cluster.client.get("/v1/drift")
        if meanwhile.status_code != 200:  # else it was replaced within the call
            assert meanwhile.status_code == 503
            assert meanwhile.headers["content-type"] == "application/problem+json"
        wait_for("verdicts of another actor", lambda: judged(killed))
    load.assert_all_answered(at_least=50)
    assert pid_of_the_actor(cluster) not in (0, pid)
