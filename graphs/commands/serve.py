"""`python -m graphs serve`: checks serve_config.yaml, then runs `serve run` with the flags of cluster/serve.env.

The command line replaces its process by this module, which stays beside `serve run` and imports nothing large. The
check runs in a process of its own, which ends; it writes the config that is served, with the version of the model.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster import ENV_FILE

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
    """Serves until interrupted; returns the exit status of `serve run`, or that of the check if it fails."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
    with tempfile.TemporaryDirectory(prefix="rayfunnel-") as folder:
        pinned = Path(folder) / "serve_config.yaml"
        check = [sys.executable, "-m", "graphs", "check", "--load", "--out", str(pinned), "--", path]
        if status := _run(check, dict(os.environ)):
            return status
        command = [str(Path(sys.executable).with_name("serve")), "run", str(pinned)]
        return _run(command, environment(), _url(yaml.safe_load(pinned.read_text("utf-8"))))


def _url(content: Mapping[str, Any]) -> str:
    """Where the application of this config file answers on this machine."""
    port = (content.get("http_options") or {}).get("port", 8000)
    applications = {app.get("import_path"): app for app in content["applications"]}
    prefix = (applications.get("graphs.recommendation:build") or {}).get("route_prefix") or "/"
    return f"http://127.0.0.1:{port}{prefix.rstrip('/')}"


def _run(command: Sequence[str], environment: Mapping[str, str], url: str = "") -> int:
    """Runs `command` until it ends; returns its exit status. `url`: of the server that it starts."""
    with subprocess.Popen(command, env=environment) as process:  # noqa: S603 - our own interpreter, or its `serve`
        signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
        try:
            if url and (state := _wait_until_ready(process, url)):
                print(state, flush=True)
            return process.wait()
        except KeyboardInterrupt:
            if not _from_terminal():
                process.send_signal(signal.SIGINT)
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _from_terminal() -> bool:
    """Whether Ctrl-C of a terminal was pressed, which the command has had as well."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _wait_until_ready(process: subprocess.Popen[bytes], url: str) -> str:
    """The line for the terminal once the application is ready; empty if `process` ended before."""
    began = time.monotonic()
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/v1/health/ready", timeout=5):  # noqa: S310 - our own http:// address
                break
        except urllib.error.HTTPError as error:
            if error.code not in (404, 503):  # as where a check of yours wants a key
                break
            time.sleep(0.5)
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    if process.poll() is None:
        return f"rayfunnel is ready after {time.monotonic() - began:.0f} s: {url}/ (API: {url}/docs)"
    return ""


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
