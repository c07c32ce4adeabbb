"""Normal or shifted traffic for a running application, to watch drift verdicts and autoscaling."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from pathlib import Path

from benchmarks.serving.open_loop import open_loop
from benchmarks.serving.workloads import bodies
from deployments.artifact.reader import Artifact
from graphs.config_file import load, recommender_args

_PIECE_S = 30.0


def traffic(config: str, url: str, rate: float, seconds: float, new: float, n: int) -> None:
    """Poisson arrivals of requests for `n` items each, a share `new` of them from unknown users.

    Every half minute it prints the result of the load and the signals in DRIFT.
    """
    artifact = Artifact.open(recommender_args(load(config)).artifact)
    with tempfile.TemporaryDirectory() as folder:
        lines = bodies(artifact, Path(folder), zipf=0, new=new, n=n)
        pieces = max(1, round(seconds / _PIECE_S))
        for piece in range(pieces):
            seen = open_loop(url, lines, rate, seconds / pieces, seed=piece)
            print(
                f"{seen.per_second:.0f} requests/s in full, p50 {seen.p50_ms:.1f} ms, p99 {seen.p99_ms:.1f} ms, "
                f"{seen.errors} errors, {seen.degraded} degraded; {_drift(url)}",
                flush=True,
            )


def _drift(url: str) -> str:
    with urllib.request.urlopen(f"{url}/v1/drift", timeout=10) as answer:
        report = json.load(answer)
    drifting = [name for name, signal in report["signals"].items() if signal["verdict"] == "DRIFT"]
    return f"drift after {report['windows']} windows: {report['verdict']} {', '.join(drifting)}".rstrip()
