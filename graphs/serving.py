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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from cluster import ENV_FILE
from cluster.valkey import ValkeyConfig
from deployments.errors import ConfigError
from graphs.config import RecommenderArgs, parse_args

RECOMMENDER, STORE = "graphs.recommendation:build", "graphs.store:build"
MAXCONN = "RAY_SERVE_HAPROXY_MAXCONN"
_FILES_PER_CONNECTION, _OTHER_FILES = 2.5, 100
"""Of HAProxy with Serve's configuration: 40,996 for 16,384 connections."""
ARGS: dict[str, type[BaseModel]] = {RECOMMENDER: RecommenderArgs, STORE: ValkeyConfig}
"""What the `args:` of each of our import paths must be."""


def flags() -> dict[str, str]:
    """The flags of cluster/serve.env."""
    lines = (line.strip() for line in ENV_FILE.read_text("utf-8").splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def environment() -> dict[str, str]:
    """This process's environment over the flags of cluster/serve.env (what is set already wins), HAProxy's connections
    bounded by the files that a process may open here.
    """
    ours = flags()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files != resource.RLIM_INFINITY:
        fitting = int((most_files - _OTHER_FILES) / _FILES_PER_CONNECTION)
        ours[MAXCONN] = str(min(int(ours[MAXCONN]), fitting))
    return ours | os.environ


def read(path: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        ConfigError: the file is missing, or is no YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name an existing file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def load(path: str) -> dict[str, Any]:
    """The config file with the args of our applications checked.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds a wrong key or value.
    """
    return checked(read(path), path)


def checked(config: Any, path: str) -> dict[str, Any]:
    """A Serve config, once the args of our applications are checked; `path`: where it is from.

    Raises:
        ConfigError: a wrong key or value.
    """
    if not isinstance(config, dict) or not isinstance(config.get("applications"), list):
        raise ConfigError(f"{path}: `applications` must be a list, as in the serve_config.yaml of this repository")
    for application in config["applications"]:
        model = ARGS.get(application.get("import_path"))
        if model is not None:
            parse_args(model, application.get("args", {}))
    _check_ports(config)
    return config


def _check_ports(config: Mapping[str, Any]) -> None:
    """The recommender must look for the embedded store where the application `store` runs it."""
    ports = [
        parse_args(ValkeyConfig, app.get("args", {})).port
        for app in config["applications"]
        if app.get("import_path") == STORE
    ]
    for app in config["applications"]:
        if app.get("import_path") == RECOMMENDER:
            store = parse_args(RecommenderArgs, app.get("args", {})).store
            if ports and not store.redis_url and store.port not in ports:
                raise ConfigError(f"args.store.port is {store.port}, but the application store runs on {ports[0]}")


def recommender_args(config: Mapping[str, Any]) -> RecommenderArgs:
    """The args of the first recommender in a loaded config file.

    Raises:
        ConfigError: there is none.
    """
    for application in config["applications"]:
        if application.get("import_path") == RECOMMENDER:
            return parse_args(RecommenderArgs, application.get("args", {}))
    raise ConfigError(f"no application has the import_path {RECOMMENDER}; add one, as in serve_config.yaml")


def serve(path: str) -> int:
    """Serves until interrupted; returns the exit status of `serve run`."""
    config = load(path)
    importlib.import_module("graphs.recommendation").check(recommender_args(config))
    http = config.get("http_options", {})
    url = f"http://127.0.0.1:{http.get('port', 8000)}"
    command = [str(Path(sys.executable).with_name("serve")), "run", path]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell started us with it ignored
    with subprocess.Popen(command, env=environment()) as process:  # noqa: S603 - our own interpreter's `serve`
        signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
        try:
            for state in _until_ready(process, url):
                print(state, flush=True)
            return process.wait()
        except KeyboardInterrupt:  # the terminal has sent it to `serve run` as well
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
