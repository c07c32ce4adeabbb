"""`rayfunnel deploy`: checks a config file, pins it to the models of now, and gives it to a running cluster."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from graphs.commands import pinned_config
from graphs.commands.serve import environment
from graphs.config_file import load


def deploy(path: str, address: str) -> int:
    """Deploys the config file at `path`; returns the exit status of `serve deploy`.

    `address`: of the cluster's dashboard; empty: that of `serve deploy`.

    Raises:
        ConfigError: the config can't work.
    """
    pinned = pinned_config.pinned(load(path))
    options = ["--address", address] if address else []
    serve = Path(sys.executable).with_name("serve")
    flags = environment()
    with tempfile.TemporaryDirectory(prefix="rayfunnel-") as folder:
        rendered = Path(folder) / "serve_config.yaml"
        pinned_config.write(pinned, rendered)
        done = subprocess.run([str(serve), "deploy", str(rendered), *options], env=flags, check=False)  # noqa: S603
    if done.returncode:
        return done.returncode
    for model in pinned_config.models(pinned):
        print(f"deployed {model}")
    watch = shlex.join(["serve", "status", *options])
    print(
        f"watch it: RAY_AUTH_MODE={flags['RAY_AUTH_MODE']} {watch}; then GET /v1/health/ready shows the model_version"
    )
    return 0
