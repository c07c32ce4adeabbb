"""`python -m graphs serve`: checks serve_config.yaml, then runs `serve run` with the flags of cluster/serve.env."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from cluster import ENV_FILE
from graphs.config_file import load, recommender_args

MAXCONN = "RAY_SERVE_HAPROXY_MAXCONN"
_FILES_PER_CONNECTION, _OTHER_FILES = 2.5, 100
"""Open files of HAProxy with Serve's configuration: 40,996 for 16,384 connections."""


def flags() -> dict[str, str]:
    """The flags of cluster/serve.env."""
    lines = (line.strip() for line in ENV_FILE.read_text("utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def environment() -> dict[str, str]:
    """The flags of cluster/serve.env under the environment of this process, whose variables win. HAProxy gets no more
    connections than it may open files for.
    """
    ours = flags()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files != resource.RLIM_INFINITY:
        fitting = int((most_files - _OTHER_FILES) / _FILES_PER_CONNECTION)
        ours[MAXCONN] = str(min(int(ours[MAXCONN]), fitting))
    return ours | os.environ


def serve(path: str) -> int:
    """Serves until interrupted; returns the exit status of `serve run`."""
    config = load(path)
    importlib.import_module("graphs.recommendation").check(recommender_args(config))
    http = config.get("http_options", {})
    url = f"http://127.0.0.1:{http.get('port', 8000)}"
    command = [str(Path(sys.executable).with_name("serve")), "run", path]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
    with subprocess.Popen(command, env=environment()) as process:  # noqa: S603 - our own interpreter's `serve`
        signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
        try:
            for state in _until_ready(process, url):
                print(state, flush=True)
            return process.wait()
        except KeyboardInterrupt:  # the terminal sends SIGINT to `serve run` as well
            return process.wait()


def _until_ready(process: subprocess.Popen[bytes], url: str) -> Iterator[str]:
    began = time.monotonic()
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/v1/health/ready", timeout=5):  # noqa: S310 - our own http:// address
                yield f"rayfunnel is ready after {time.monotonic() - began:.0f} s: {url}/ (API: {url}/docs)"
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
