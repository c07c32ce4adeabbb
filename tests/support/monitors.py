"""Prometheus and Alertmanager as processes of a test, on files that `monitoring.alerts` renders, and their APIs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitoring import run

Api = httpx.Client


def tool(name: str) -> str:
    """The path of one of Debian's tools."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian's prometheus, prometheus-alertmanager)")
    return found


@contextmanager
def _running(command: list[str], port: int, log: Path) -> Iterator[Api]:
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as api:
            deadline = time.monotonic() + 30
            while not _ready(api):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.05)
            yield api
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(api: Api) -> bool:
    try:
        return api.get("/-/ready").is_success
    except httpx.HTTPError:
        return False


def alertmanager(folder: Path, port: int) -> AbstractContextManager[Api]:
    """Runs Alertmanager on `folder`/alertmanager.yaml."""
    tool("prometheus-alertmanager")
    return _running(run.alertmanager(port), port, folder / "alertmanager.log")


def prometheus(folder: Path, port: int) -> AbstractContextManager[Api]:
    """Runs Prometheus on `folder`/prometheus.yaml."""
    tool("prometheus")
    return _running(run.prometheus(port), port, folder / "prometheus.log")


def query(api: Api, expr: str) -> list[dict[str, Any]]:
    """The current result of an expression."""
    answer = api.get("/api/v1/query", params={"query": expr})
    assert answer.status_code == 200, f"{expr}: {answer.text}"
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def send_alerts(api: Api, *alerts: Mapping[str, str]) -> None:
    """Sends alerts with these labels to Alertmanager."""
    api.post("/api/v2/alerts", json=[{"labels": dict(labels)} for labels in alerts]).raise_for_status()


def inhibited(api: Api, until: Callable[[set[str]], bool], within_s: float = 10) -> set[str]:
    """Names of the inhibited alerts, once `until` is true of them or the time is over."""
    deadline = time.monotonic() + within_s
    while True:
        shown = api.get("/api/v2/alerts").raise_for_status().json()
        found = {alert["labels"]["alertname"] for alert in shown if alert["status"]["inhibitedBy"]}
        if until(found) or time.monotonic() > deadline:
            return found
        time.sleep(0.1)
