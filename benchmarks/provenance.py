"""How, when and on which machine a section of RESULTS.md was measured."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from deployments.artifact.reader import Artifact


def made_by(command: str, artifact: Artifact | None = None) -> str:
    """The line below the title of a section: the command, the date, the machine, the versions and the model."""
    parts = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch", "numpy"))
    model = f", model {artifact.model_version}" if artifact else ""
    return (
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}: {_cpu()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {parts}{model}."
    )


def _cpu() -> str:
    """The processor, and its widest instructions that torch has kernels for."""
    named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{named.group(1) if named else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
