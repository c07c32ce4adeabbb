"""The comparison: the same artifact, stage classes and store behind each server; equal answers first, then the load."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import orjson
from rich.progress import Progress

from benchmarks import servers
from benchmarks.load import Load, closed_loop, open_loop
from deployments.models.artifact import Artifact
from graphs.results import write_section
from graphs.serving import load, recommender_args

CHECKED = 200
TOLERANCE = 1e-4
FRACTIONS = (0.3, 0.5, 0.7, 0.9)
REFERENCE = "FastAPI + uvicorn x2, per request"
"""Whose answers the others' are compared with: no batching, nothing of ours around the recommender."""


def request_bodies(artifact: Artifact, folder: Path, count: int = 20_000, unknown: float = 0.05, seed: int = 1) -> Path:
    """Requests of 10 items, one a line: users of the artifact drawn evenly, a share of `unknown` ones."""
    rng = np.random.default_rng(seed)
    users = artifact.table("histories.parquet").column("user_id").unique().to_pylist()
    drawn = [users[i] for i in rng.integers(0, len(users), count)]
    new = rng.random(count) < unknown
    path = folder / "bodies.jsonl"
    lines = [orjson.dumps({"user_id": f"new-{i}" if new[i] else user, "n": 10}) for i, user in enumerate(drawn)]
    path.write_bytes(b"\n".join(lines))
    return path


def answers(url: str, bodies: Path) -> list[list[tuple[str, float]]]:
    """(item, score) lists of the first requests, one after the other."""
    found = []
    for body in bodies.read_bytes().splitlines()[:CHECKED]:
        request = urllib.request.Request(f"{url}/v1/recommend", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = orjson.loads(response.read())
        assert answer["degraded"] == [], answer
        found.append([(item["item_id"], item["score"]) for item in answer["items"]])
    return found


def differences(ours: Sequence[Sequence[tuple[str, float]]], theirs: Sequence[Sequence[tuple[str, float]]]) -> int:
    """Requests answered with other items, another order or scores that differ by more than the tolerance."""
    return sum(
        [i for i, _ in a] != [i for i, _ in b]
        or any(abs(x - y) > TOLERANCE for (_, x), (_, y) in zip(a, b, strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )


def closed(
    config: str, names: Sequence[str], clients: Sequence[int], rounds: int, seconds: float
) -> Iterator[tuple[str, int, float, float, Load | None]]:
    """(server, clients, requests/s, p50 ms, the load) of every round; rounds are interleaved.

    Raises:
        SystemExit: a server gives other answers than the reference, or errors or degraded answers under load.
    """
    artifact = Artifact.open(recommender_args(load(config)).artifact)
    with tempfile.TemporaryDirectory(prefix="rfb") as name, Progress() as bars:
        folder = Path(name)
        bodies = request_bodies(artifact, folder)
        bar = bars.add_task("speed", total=rounds * len(names))
        reference: list[list[tuple[str, float]]] = []
        with servers.store(folder, str(artifact.folder)):
            for turn in range(rounds):
                for server in names:
                    bars.update(bar, description=f"round {turn + 1}: {server}")
                    if server in servers.LIMITS:
                        yield server, 0, servers.limit(server, config, folder, bodies, seconds), 0.0, None
                    else:
                        with servers.server(server, config, folder) as url:
                            if turn == 0:
                                found = answers(url, bodies)
                                reference = reference or found
                                if differing := differences(found, reference):
                                    raise SystemExit(f"{server}: {differing} of {CHECKED} answers differ; not timed")
                            for count in clients:
                                closed_loop(url, bodies, count, 2, offset=1000 * turn)  # not counted: warm
                                result = closed_loop(url, bodies, count, seconds, offset=1000 * turn)
                                yield server, count, result.per_second, result.p50_ms, result
                    bars.advance(bar)


def speed(config: str, out: str, names: Sequence[str], clients: Sequence[int], rounds: int, seconds: float) -> None:
    """Runs the closed loop and writes its section."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    p50s: dict[tuple[str, int], list[float]] = defaultdict(list)
    bad: dict[str, int] = defaultdict(int)
    for name, count, rate, p50, load_ in closed(config, names, clients, rounds, seconds):
        rates[name, count].append(rate)
        p50s[name, count].append(p50)
        if load_:
            bad[name] += load_.errors + load_.degraded
        print(json.dumps({"server": name, "clients": count, "per_second": round(rate, 1), "p50_ms": round(p50, 2)}))
    limit = rates.get((servers.LIMITS[1], 0))
    head = [
        "server",
        *(f"req/s at {c}" for c in clients),
        f"of the limit at {clients[-1]}",
        "p50 ms at 1",
        "bad answers",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in names:
        if name in servers.LIMITS:
            lines.append(
                f"| {name} |" + " |" * (len(clients) - 1) + f" {statistics.median(rates[name, 0]):.0f} | | | |"
            )
            continue
        shown = [f"{statistics.median(rates[name, count]):.0f}" for count in clients]
        ratios = [a / b for a, b in zip(rates[name, clients[-1]], limit or [], strict=False)]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        p50 = f"{statistics.median(p50s[name, 1]):.1f}" if 1 in clients else ""
        lines.append(f"| {name} | " + " | ".join([*shown, ratio, p50, str(bad[name])]) + " |")
    artifact = Artifact.open(recommender_args(load(config)).artifact)
    command = (
        f"python -m benchmarks speed --servers '{';'.join(names)}' --clients {','.join(map(str, clients))} "
        f"--rounds {rounds} --seconds {seconds:g}"
    )
    text = (
        f"Closed loop by wrk, {rounds} interleaved rounds of {seconds:g} s, medians; the ratio is the median of the "
        "rounds' ratios to the limit of the same round (two processes that compute, no server, batches of 32). "
        f"`as shipped`: the configuration as it is; the others run the plain fp32 model without cache. All gave equal "
        f"answers to {CHECKED} requests before they were timed. `bad answers`: errors and degraded ones under load."
    )
    write_section(out, "\n".join(["## Speed: closed loop", "", _made_by(command, artifact), "", text, "", *lines]))


def paced(config: str, out: str, name: str, peak: float, seconds: float) -> None:
    """Open loop at shares of `peak` requests/s; writes its section."""
    artifact = Artifact.open(recommender_args(load(config)).artifact)
    head = "| share of peak | requests/s | p50 ms | p99 ms | errors | degraded |"
    lines = [head, "|---" * 6 + "|"]
    with tempfile.TemporaryDirectory(prefix="rfb") as tmp:
        folder = Path(tmp)
        bodies = request_bodies(artifact, folder)
        with servers.store(folder, str(artifact.folder)), servers.server(name, config, folder) as url:
            closed_loop(url, bodies, 32, 5)
            peak = peak or closed_loop(url, bodies, 128, 10).per_second
            for share in FRACTIONS:
                result = open_loop(url, bodies, peak * share, seconds)
                lines.append(
                    f"| {share:.0%} | {peak * share:.0f} | {result.p50_ms:.1f} | {result.p99_ms:.1f} "
                    f"| {result.errors} | {result.degraded} |"
                )
                print(lines[-1])
    command = f"python -m benchmarks open-loop --server '{name}' --seconds {seconds:g}"
    text = (
        f"Poisson arrivals for {seconds:g} s at shares of the peak ({peak:.0f} requests/s, 128 clients closed), "
        "a latency counts from the scheduled time. The generator runs on the same cores."
    )
    title = f"## Speed: open loop, {name}"
    write_section(out, "\n".join([title, "", _made_by(command, artifact), "", text, "", *lines]))


def _made_by(command: str, artifact: Artifact) -> str:
    parts = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch", "numpy"))
    return (
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {parts}, model {artifact.model_version}."
    )
