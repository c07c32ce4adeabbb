"""The cost of drift monitoring or of logging: two applications in one cluster, with and without it, loaded in turns.

Throughput on a small machine varies by more than this cost, so CPU time per request is measured, too.
"""

from __future__ import annotations

import contextlib
import copy
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.progress import track

from benchmarks.provenance import made_by
from benchmarks.serving import servers, workloads
from benchmarks.serving.load import closed_loop
from deployments.artifact.reader import Artifact
from graphs.commands.serve import environment
from graphs.config_file import load, recommender_args
from graphs.evaluation.results_file import write_section

CLIENTS = 64
WITH, WITHOUT = "/", "/without"
_OFF: dict[str, Any] = {"drift": {"enabled": False}}
_NO_LINES = _OFF | {"logs": {"success_share": 0, "slow_ms": 60_000}}
ARGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "drift": ({}, _OFF),
    "logs": (_OFF, _NO_LINES),
    "every-line": (_OFF | {"logs": {"success_share": 1.0}}, _NO_LINES),
}
"""Per comparison the `args:` of the two applications, merged over those of the configuration."""


def overhead(base: str, out: str, pairs: int, seconds: float, of: str = "drift") -> None:
    """Closed loop on the two applications in turns; the order alternates from pair to pair. `of`: a key of ARGS. The
    result of `drift` is written to its section, the other results are printed.
    """
    ratios, costs, rates = [], [], []
    with tempfile.TemporaryDirectory(prefix="rfb") as name:
        folder = Path(name)
        artifact = Artifact.open(recommender_args(load(base)).artifact)
        bodies = workloads.bodies(artifact, folder, zipf=0)
        words = ["python", "-m", "graphs", "serve", str(_both(base, folder, *ARGS[of]))]
        ready = [f"{prefix.rstrip('/')}/v1/health/ready" for prefix in (WITH, WITHOUT)]
        with (
            servers.store(folder, str(artifact.folder)),
            servers.launched(words, environment(), folder / "server.log", ready),
        ):
            for pair in track(range(-1, pairs), "overhead"):  # the first pair warms up
                found, cpu_s = {}, {}
                for prefix in (WITH, WITHOUT)[:: 1 if pair % 2 else -1]:
                    before = _cpu_s(prefix)
                    result = closed_loop(f"{servers.URL}{prefix.rstrip('/')}", bodies, CLIENTS, seconds, 1000 * pair)
                    if result.errors:
                        raise SystemExit(f"{prefix}: {result.errors} errors under load")
                    found[prefix] = result.per_second
                    cpu_s[prefix] = (_cpu_s(prefix) - before) / result.full
                if pair >= 0:
                    ratios.append(found[WITH] / found[WITHOUT])
                    costs.append(cpu_s[WITH] / cpu_s[WITHOUT])
                    rates.append(found[WITHOUT])
    if of != "drift":
        rate = statistics.median(rates)
        print(f"{of}: CPU time per request {_spread(costs)}, throughput {_spread(ratios)} of {rate:.0f} requests/s")
        return
    text = (
        "The configuration as shipped, but with a warm cache and a fixed number of replicas, and the same with "
        f"drift.enabled: false: two applications in one cluster, {CLIENTS} clients on each in turns, {pairs} pairs "
        f"of {seconds:g} s.\n\n"
        f"**With drift monitoring, CPU time per request is {_spread(costs)} of that without, "
        f"throughput {_spread(ratios)}** (medians and quartiles; without: {statistics.median(rates):.0f} requests/s). "
        "The time is that of the application's replicas and of the drift actor."
    )
    command = f"python -m benchmarks overhead --pairs {pairs} --seconds {seconds:g}"
    write_section(out, "\n".join(["## Drift: what watching costs", "", made_by(command, artifact), "", text]))


def _spread(ratios: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def _cpu_s(prefix: str) -> float:
    """CPU seconds so far of the processes of an application."""
    names = ["ServeReplica:without:"] if prefix == WITHOUT else ["ServeReplica:recommender:", "ray::DriftActor"]
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().decode()
            if any(name in line for name in names):
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])  # utime, stime: proc(5)
    return total / os.sysconf("SC_CLK_TCK")


def _both(base: str, folder: Path, one: dict[str, Any], the_other: dict[str, Any]) -> Path:
    path = servers.config(base, folder, "both", plain=False)
    loaded = yaml.safe_load(path.read_text("utf-8"))
    args = loaded["applications"][0]["args"]
    args["cache"]["candidates_ttl_s"] = 3600  # no entry may expire: the second of a pair would gain
    args["stages"]["scoring"]["max_replicas"] = 0
    other = copy.deepcopy(loaded["applications"][0]) | {"name": "without", "route_prefix": WITHOUT}
    args |= one
    other["args"] |= the_other
    loaded["applications"].append(other)
    path.write_text(yaml.safe_dump(loaded), "utf-8")
    return path
