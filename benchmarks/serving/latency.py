"""Latency in open loop, at shares of the peak that each server reaches in closed loop."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import plots
from benchmarks.provenance import made_by
from benchmarks.serving import servers, workloads
from benchmarks.serving.load import Load, closed_loop
from benchmarks.serving.open_loop import open_loop
from deployments.artifact.reader import Artifact
from graphs.config_file import load, recommender_args
from graphs.evaluation.results_file import write_section

FRACTIONS = (0.3, 0.5, 0.7, 0.9, 1.4)
"""Of the peak; the last is more than the server can do."""

LEAD_S = 12.0
"""Seconds at the start of each rate that do not count. The replicas that the policy starts then take the cores."""


def latency(base: str, workload: str, out: str, names: Sequence[str], seconds: float) -> None:
    """Measures every server, and writes the section and its plot."""
    lines = [
        "| server | share of peak | offered/s | in full/s | p50 ms | p99 ms | errors | degraded |",
        "|---" * 8 + "|",
    ]
    curves: dict[str, list[tuple[float, Load]]] = {}
    with tempfile.TemporaryDirectory(prefix="rfb") as tmp:
        folder = Path(tmp)
        config = workloads.config(base, workload, folder)
        artifact = Artifact.open(recommender_args(load(config)).artifact)
        bodies = workloads.bodies(artifact, folder, workloads.WORKLOADS[workload].zipf)
        with servers.store(folder, str(artifact.folder)):
            for name in names:
                with servers.server(name, config, folder) as url:
                    closed_loop(url, bodies, 32, 5)
                    peak = closed_loop(url, bodies, 128, 10).per_second
                    rates = [peak * share for share in FRACTIONS]
                    curves[name] = [
                        (rate, open_loop(url, bodies, rate, LEAD_S + seconds, lead_s=LEAD_S)) for rate in rates
                    ]
                for share, (rate, result) in zip(FRACTIONS, curves[name], strict=True):
                    lines.append(
                        f"| {name} | {share:.0%} | {rate:.0f} | {result.per_second:.0f} | {result.p50_ms:.1f} "
                        f"| {result.p99_ms:.1f} | {result.errors} | {result.degraded} |"
                    )
                    print(lines[-1])
    picture = plots.latencies(curves, Path(out).parent / "plots" / f"open-loop-{workload}.png")
    command = (
        f"python -m benchmarks open-loop --workload {workload} --servers '{';'.join(names)}' --seconds {seconds:g}"
    )
    text = (
        f"{workloads.WORKLOADS[workload].what}. Poisson arrivals for {seconds:g} s, after {LEAD_S:g} s that do not "
        "count, at shares of the server's own peak (128 clients, closed loop); a latency counts from the scheduled "
        "time. The generator runs on the same cores."
    )
    title = f"## Speed, open loop: {workload}"
    image = f"![Latency over throughput](plots/{picture.name})"
    write_section(out, "\n".join([title, "", made_by(command, artifact), "", text, "", *lines, "", image]))
