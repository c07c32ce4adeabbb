"""Growth of the cost of a request with catalogue, candidates, history and batch; one process per point, on one core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks import plots
from benchmarks.provenance import made_by
from benchmarks.serving.workloads import FOLDER
from benchmarks.synthetic import Size, write
from graphs.evaluation.results_file import write_section

USUAL = {"candidates": 500, "batch": 32, "history": 20}
GROWING = {
    "candidates": (100, 200, 500, 1000, 2000),
    "history": (10, 20, 50, 150, 500),
    "batch": (1, 2, 8, 32, 128),
}


def growth(out: str, items: Sequence[int]) -> None:
    """Measures every point and writes the section and its plot."""
    points: list[tuple[str, int, dict[str, int], str]] = [
        ("items", count, USUAL, _artifact(count)) for count in track(items, "artifacts")
    ]
    middle = _artifact(100_000, wide=8.0)  # large quotas, for 2,000 candidates
    points += [
        (what, value, USUAL | {what: value}, middle if what == "candidates" else _artifact(100_000))
        for what, values in GROWING.items()
        for value in values
    ]
    panels: dict[str, dict[int, dict[str, float]]] = {}
    head = ["", "", *(f"{stage} ms" for stage in plots.STAGES), "all ms", "own MiB", "mapped MiB", "ready s", "index"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for what, value, setting, artifact in track(points, "growth"):
        found = _measure(artifact, setting)
        costs = {stage: float(found[stage]["ms"]) for stage in plots.STAGES}
        panels.setdefault(what, {})[value] = costs
        ready_s = found["check_s"] + sum(found[stage]["ready_s"] for stage in plots.STAGES)
        index = found["index"]
        cells = [
            what,
            f"{value:,}",
            *(f"{cost:.2f}" for cost in costs.values()),
            f"{sum(costs.values()):.2f}",
            f"{sum(found[stage]['mb'] for stage in plots.STAGES):.0f}",
            f"{sum(path.stat().st_size for path in Path(artifact).iterdir()) / 2**20:.0f}",
            f"{ready_s:.1f}",
            f"{index['kind']}, recall@500 {index['recall@500']:.3f}, {index.get('probes', 'all')} probed",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    picture = plots.costs(panels, Path(out).parent / "plots" / "growth.png")
    text = (
        f"Milliseconds of one core per request, plain fp32 model, every stage in one process; {USUAL['candidates']} "
        f"candidates, batches of {USUAL['batch']}, histories of {USUAL['history']} events and 100,000 items where not "
        "stated. `own`: memory of all four stages without a file behind it; `mapped`: files of the artifact, which the "
        "replicas of a node share; `ready`: time to check every hash, load and compile."
    )
    command = f"python -m benchmarks growth --items {','.join(map(str, items))}"
    image = f"![Cost](plots/{picture.name})"
    write_section(out, "\n".join(["## Growth of the cost", "", made_by(command), "", text, "", *lines, "", image]))


def _artifact(items: int, wide: float = 2.0) -> str:
    path = FOLDER / f"growth-{items}-{wide:g}"
    if not path.exists():
        write(str(path), Size(items=items, users=1000, wide=wide))
    return str(path)


def _measure(artifact: str, setting: dict[str, int]) -> dict[str, Any]:
    words = [f"--{name}={value}" for name, value in setting.items()]
    command = [sys.executable, "-m", "benchmarks.stages.stage_cost", artifact, *words]
    flags = dict(os.environ) | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=flags).stdout
    result: dict[str, Any] = json.loads(output)
    return result
