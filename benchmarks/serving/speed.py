"""The comparison: the same artifact, stage classes and store behind each server; equal answers first, then the load."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import tempfile
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import orjson
import torch
from rich.progress import Progress

from benchmarks import plots
from benchmarks.serving import servers, workloads
from benchmarks.serving.load import Load, closed_loop
from benchmarks.serving.open_loop import open_loop
from deployments.artifact.reader import Artifact
from deployments.models.backends.parity_gate import MIN_OVERLAP
from deployments.stages.scoring import Scorer
from graphs.config_file import load, recommender_args
from graphs.evaluation.results_file import write_section

Answers = Sequence[Sequence[tuple[str, float]]]
"""The (item, score) pairs of each request."""
CHECKED = 200
TOLERANCE = 1e-4
FRACTIONS = (0.3, 0.5, 0.7, 0.9, 1.4)
"""Of the peak; the last is more than the server can do."""
LEAD_S = 12.0
"""Not counted at the start of a rate: a sudden one has the policy start replicas, whose imports take the cores."""
WARM_S, FILL_S = 4.0, 30.0
"""Of each load, before what is counted; before the last one of servers that cache. All ask for ever new draws."""
REFERENCE = "FastAPI + uvicorn x2, per request"
"""Whose answers the others' are compared with: no batching, nothing of ours around the recommender."""


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


def differences(ours: Answers, theirs: Answers) -> int:
    """Requests answered with other items, another order or scores that differ by more than the tolerance."""
    return sum(
        [i for i, _ in a] != [i for i, _ in b]
        or any(abs(x - y) > TOLERANCE for (_, x), (_, y) in zip(a, b, strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )


def shared(ours: Answers, theirs: Answers) -> float:
    """Mean share of their items that are among ours."""
    return statistics.mean(
        len({i for i, _ in a} & {i for i, _ in b}) / max(1, len(b)) for a, b in zip(ours, theirs, strict=True)
    )


def check(server: str, found: Answers, reference: Answers) -> None:
    """As shipped the model may run in half precision: what the parity gate asks for holds here, too.

    Raises:
        SystemExit: the answers are others.
    """
    if "as shipped" in server:
        if (share := shared(found, reference)) < MIN_OVERLAP:
            raise SystemExit(
                f"{server}: {share:.2%} of the items are the reference's (at least {MIN_OVERLAP:.0%}); not timed"
            )
    elif differing := differences(found, reference):
        raise SystemExit(f"{server}: {differing} of {CHECKED} answers differ; not timed")


def closed(
    config: str, zipf: float, names: Sequence[str], clients: Sequence[int], rounds: int, seconds: float
) -> Iterator[tuple[str, int, float, float, Load | None, float]]:
    """(server, clients, requests/s, p50 ms, the load, its share of cache hits) of every round; rounds are interleaved.

    Raises:
        SystemExit: a server gives other answers than the reference, or errors or degraded answers under load.
    """
    artifact = Artifact.open(recommender_args(load(config)).artifact)
    with tempfile.TemporaryDirectory(prefix="rfb") as name, Progress() as bars:
        folder = Path(name)
        bodies = workloads.bodies(artifact, folder, zipf)
        bar = bars.add_task("speed", total=rounds * len(names))
        reference: list[list[tuple[str, float]]] = []
        with servers.store(folder, str(artifact.folder)):
            for turn in range(rounds):
                for server in names:
                    bars.update(bar, description=f"round {turn + 1}: {server}")
                    if server in servers.LIMITS:
                        if 1 in clients:
                            alone = servers.limit(servers.LIMITS[0], config, folder, bodies, seconds, batch=1)
                            yield server, 1, *alone, None, 0.0
                        yield server, 0, servers.limit(server, config, folder, bodies, seconds)[0], 0.0, None, 0.0
                    else:
                        servers.forget()
                        with servers.server(server, config, folder) as url:
                            if turn == 0:
                                found = answers(url, bodies)
                                reference = reference or found
                                check(server, found, reference)
                            asked = 20_000 * turn
                            for count in clients:
                                lead_s = FILL_S if "as shipped" in server and count == clients[-1] else WARM_S
                                asked += closed_loop(url, bodies, count, lead_s, offset=asked).asked  # not counted
                                before = cached(url)
                                result = closed_loop(url, bodies, count, seconds, offset=asked)
                                hits, misses = (now - then for now, then in zip(cached(url), before, strict=True))
                                asked += result.asked
                                share = hits / max(1.0, hits + misses)
                                yield server, count, result.per_second, result.p50_ms, result, share
                    bars.advance(bar)


def cached(url: str) -> tuple[float, float]:
    """Requests whose candidates the cache had, and those that it did not have; of other servers none."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:
        return 0.0, 0.0
    counts = dict.fromkeys(("hit", "miss"), 0.0)
    for outcome, count in re.findall(r'^rayfunnel_cache_total\{.*?outcome="(hit|miss)".*?\} (\S+)', text, re.MULTILINE):
        counts[outcome] += float(count)
    return counts["hit"], counts["miss"]


def speed(
    base: str, workload: str, out: str, names: Sequence[str], clients: Sequence[int], rounds: int, seconds: float
) -> None:
    """Runs the closed loop and writes its section."""
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    p50s: dict[tuple[str, int], list[float]] = defaultdict(list)
    hits: dict[str, list[float]] = defaultdict(list)
    bad: dict[str, int] = defaultdict(int)
    with tempfile.TemporaryDirectory(prefix="rfw") as tmp:
        config = workloads.config(base, workload, Path(tmp))
        artifact = Artifact.open(recommender_args(load(config)).artifact)
        chosen = Scorer(artifact, recommender_args(load(config)).stages.scoring.config).running
        zipf = workloads.WORKLOADS[workload].zipf
        for name, count, rate, p50, load_, hit in closed(config, zipf, names, clients, rounds, seconds):
            rates[name, count].append(rate)
            p50s[name, count].append(p50)
            if load_:
                bad[name] += load_.errors + load_.degraded
            if count == clients[-1]:
                hits[name].append(hit)
            line = {"server": name, "clients": count, "per_second": round(rate, 1), "p50_ms": round(p50, 2)}
            print(json.dumps(line | {"hits": round(hit, 3)}), flush=True)
    limit = rates.get((servers.LIMITS[1], 0))
    most = clients[-1]
    head = ["server", *(f"req/s at {c}" for c in clients), f"of the limit at {most}", "p50 ms at 1", "bad answers"]
    head.append(f"cache hits at {most}")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in names:
        if name in servers.LIMITS:
            rate = statistics.median(rates[name, 0])
            alone = f"{statistics.median(p50s[name, 1]):.1f}" if 1 in clients else ""
            lines.append(f"| {name} |" + " |" * (len(clients) - 1) + f" {rate:.0f} | | {alone} | | |")
            continue
        shown = [f"{statistics.median(rates[name, count]):.0f}" for count in clients]
        ratios = [a / b for a, b in zip(rates[name, most], limit or [], strict=False)]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        alone = f"{statistics.median(p50s[name, 1]):.1f}" if 1 in clients else ""
        hit = statistics.median(hits[name])
        lines.append(
            f"| {name} | " + " | ".join([*shown, ratio, alone, str(bad[name]), f"{hit:.0%}" if hit else ""]) + " |"
        )
    command = (
        f"python -m benchmarks speed --workload {workload} --servers '{';'.join(names)}' "
        f"--clients {','.join(map(str, clients))} --rounds {rounds} --seconds {seconds:g}"
    )
    text = (
        f"{workloads.WORKLOADS[workload].what}. Closed loop by wrk, {rounds} interleaved rounds of {seconds:g} s, "
        "medians; the ratio is the median of the rounds' ratios to the limit of the same round (two processes that "
        "compute, no server, batches of 32; its p50: one process, one request after the other). `as shipped`: the "
        f"configuration as it is, whose scoring ran {chosen.backend} in {chosen.precision}; the others run the plain "
        f"fp32 model without cache. All gave equal answers to {CHECKED} requests before they were timed, or as shipped "
        f"at least {MIN_OVERLAP:.0%} of the items, as the gate asks. `bad answers`: errors and degraded ones under "
        "load, which the requests per second do not count. "
        f"A cache is empty at a server's start, and {FILL_S:g} s of the "
        "same traffic fill it before the last load; no draw of users is asked for twice. `cache hits`: of the requests "
        "that were computed, those whose candidates and scores it had."
    )
    title = f"## Speed, closed loop: {workload}, shipped {chosen.backend} in {chosen.precision}"
    write_section(out, "\n".join([title, "", made_by(command, artifact), "", text, "", *lines]))


def paced(base: str, workload: str, out: str, names: Sequence[str], seconds: float) -> None:
    """Open loop at shares of each server's peak; writes its section and its plot."""
    lines = ["| server | share of peak | asked/s | in full/s | p50 ms | p99 ms | errors | degraded |", "|---" * 8 + "|"]
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


def _cpu() -> str:
    """The processor and the widest instructions that torch has kernels for."""
    named = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{named.group(1) if named else platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def made_by(command: str, artifact: Artifact | None = None) -> str:
    """The line that says how, when and on what a section was measured."""
    parts = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch", "numpy"))
    model = f", model {artifact.model_version}" if artifact else ""
    return (
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}: {_cpu()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {parts}{model}."
    )
