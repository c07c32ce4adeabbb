"""The Makefile takes a Python that Ray supports, under whatever name it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`make` on a copy of the Makefile, with the programs of `folder` alone."""
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    flags = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "PYTHON")}
    command = [shutil.which("make") or "make", "--no-print-directory", *words]
    return subprocess.run(
        command, cwd=folder, env=flags | {"PATH": str(folder)}, capture_output=True, text=True, check=False
    )


def program(path: Path, text: str) -> None:
    """An executable script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("name", ["python3", "python3.13", "python3.12", "python3.11"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(sys.executable)
    done = make(tmp_path, "--eval", "chosen: ; @:; echo $(PYTHON)", "chosen")
    assert (done.stdout, done.stderr) == (f"{name}\n", "")


def test_a_python_that_is_too_old_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "python3", "exit 1")  # what an older or newer Python answers to the question for its version
    (tmp_path / "python3.12").symlink_to(sys.executable)
    assert make(tmp_path, "--eval", "chosen: ; @:; echo $(PYTHON)", "chosen").stdout == "python3.12\n"


def test_without_any_one_sentence_says_so(tmp_path: Path) -> None:
    done = make(tmp_path, ".venv/.installed")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "error: no Python from 3.11 to 3.13 found; install one, or name it: make PYTHON=/path/to/python"
    )
    assert not (tmp_path / ".venv").exists()
