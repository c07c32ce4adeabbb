"""`python -m graphs serve`: a wrong config starts nothing, and the process that waits is small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.paths import ROOT

LARGE = {"faiss", "numba", "numpy", "pandas", "pyarrow", "pydantic", "ray", "rich", "scipy", "torch", "typer"}


def test_the_process_that_waits_imports_nothing_large() -> None:
    script = "import sys, graphs.commands.serve\nprint(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert LARGE & set(done.stdout.split()) == set()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"piepline": {}}, "args.piepline is not a known key; remove it or mend its spelling"),
        ({"artifact": "nowhere"}, "nowhere: the folder does not exist; train one with"),
    ],
)
def test_a_config_that_can_not_work_is_refused_before_serve_runs(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text("utf-8"))
    next(app for app in config["applications"] if app["name"] == "recommender")["args"] |= changes
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "graphs", "serve", str(path)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert list(temporary.glob("rayfunnel-*")) == []
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
