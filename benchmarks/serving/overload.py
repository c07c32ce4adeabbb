"""What overload does to the answers, and what each mechanism against it earns: A/B runs within one server.

Each load runs with the mechanism on and off in turns; the first of a pair alternates.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.provenance import made_by
from benchmarks.serving import servers, workloads
from benchmarks.serving.load import Load, closed_loop
from benchmarks.serving.open_loop import open_loop
from benchmarks.serving.switched import FILE, MECHANISMS
from deployments.artifact.reader import Artifact
from graphs.commands.serve import environment
from graphs.config_file import load, recommender_args
from graphs.evaluation.results_file import write_section

SETTLE_S = 3.0
"""Pause after a switch and after a load."""

LOADS = ("closed 32", "closed 128", "closed 1500", "open 0.7", "open 1.4", "open 5")
"""Clients of a closed loop, or arrivals of an open loop as a share of the peak."""


@contextmanager
def switched(base: str, folder: Path, artifact: Artifact, inside: bool) -> Iterator[tuple[str, Path]]:
    """The server whose mechanisms can be switched: its URL, and the file that names those that are off."""
    path = servers.config(base, folder, "switched", plain=False, inside=inside)
    loaded: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    application = loaded["applications"][0]
    application["import_path"] = "benchmarks.serving.switched:build"
    application.pop("autoscaling_policy", None)
    args = application["args"]
    args["pipeline"]["deadline_ms"] = 500
    args["stages"]["scoring"]["max_replicas"] = 0
    path.write_text(yaml.safe_dump(loaded), "utf-8")
    off = folder / "off"
    flags = environment() | {FILE: str(off), "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    with (
        servers.store(folder, str(artifact.folder)),
        servers.launched(["serve", "run", str(path)], flags, folder / "server.log", ["/v1/health/ready"]),
    ):
        yield servers.URL, off


def measured(url: str, bodies: Path, name: str, peak: float, seconds: float, run: int) -> Load:
    """One run of a load of LOADS. `run`: its number; every run has other draws of users, which no cache has."""
    kind, size = name.split()
    offset = 30_000 * run % 200_000
    if kind == "closed":
        return closed_loop(url, bodies, int(size), seconds, offset=offset)
    return open_loop(url, bodies, float(size) * peak, seconds, seed=run, offset=offset)


def overload(
    base: str, out: str, mechanisms_: str, loads_: str, pairs: int, seconds: float, inside: bool, rate: float
) -> None:
    """Runs the pairs and writes a section.

    `mechanisms_`, `loads_`: names separated by commas; empty: all. `rate`: the peak in requests/s; 0: it is measured.
    """
    mechanisms = mechanisms_.split(",") if mechanisms_ else list(MECHANISMS)
    loads = loads_.split(",") if loads_ else list(LOADS)
    if unknown := {*mechanisms, *loads} - {*MECHANISMS, *LOADS}:
        raise SystemExit(f"not known: {', '.join(sorted(unknown))}; there are {', '.join((*MECHANISMS, *LOADS))}")
    found: dict[tuple[str, str, bool], list[Load]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="rfo") as tmp:
        folder = Path(tmp)
        artifact = Artifact.open(recommender_args(load(base)).artifact)
        bodies = workloads.bodies(artifact, folder, zipf=0)
        with switched(base, folder, artifact, inside) as (url, off):
            closed_loop(url, bodies, 32, 5)
            closed_loop(url, bodies, 128, 5)
            peak = rate or closed_loop(url, bodies, 128, 8).per_second
            print(f"peak {peak:.0f}/s", flush=True)
            run = 0
            for turn in range(pairs):
                for mechanism in mechanisms:
                    for name in loads:
                        for on in (True, False)[:: 1 if turn % 2 else -1]:
                            off.write_text("" if on else mechanism)
                            time.sleep(SETTLE_S)
                            run += 1
                            result = measured(url, bodies, name, peak, seconds, run)
                            found[mechanism, name, on].append(result)
                            state = "on" if on else "off"
                            print(f"{turn} {mechanism} {state} {name}: {result}", flush=True)
    lines = ["| mechanism | load | in full/s with | without | ratio | p99 ms with | without |", "|---" * 7 + "|"]
    for mechanism in mechanisms:
        for name in loads:
            with_, without = found[mechanism, name, True], found[mechanism, name, False]
            ratios = [a.full / max(1, b.full) for a, b in zip(with_, without, strict=True)]
            ratio = statistics.median(ratios)
            cells = [f"{statistics.median(run.full for run in runs) / seconds:.0f}" for runs in (with_, without)]
            p99s = [f"{statistics.median(run.p99_ms for run in runs):.0f}" for runs in (with_, without)]
            lines.append(f"| {mechanism} | {name} | {' | '.join(cells)} | {ratio:.2f} | {' | '.join(p99s)} |")
    where = "all in ingress" if inside else "default placement"
    command = (
        f"python -m benchmarks overload --mechanisms {','.join(mechanisms)} --loads '{','.join(loads)}' "
        f"--pairs {pairs} --seconds {seconds:g}{' --inside' if inside else ''}{f' --peak {rate:g}' if rate else ''}"
    )
    text = (
        f"MovieLens as shipped, {where}, deadline 500 ms, one Scorer; each load for {seconds:g} s with the mechanism "
        f"and without, in turns within one server, {pairs} pairs, medians. `closed N`: N clients that ask again at "
        f"once; `open x`: Poisson arrivals at x times the peak ({peak:.0f}/s). Only answers in full count. "
        "Every run asks for other draws of users."
    )
    which = "each mechanism" if len(mechanisms) == len(MECHANISMS) else ", ".join(mechanisms)
    title = f"## Overload: earned by {which}, {where}"
    write_section(out, "\n".join([title, "", made_by(command, artifact), "", text, "", *lines]))
    print("\n".join(lines))
