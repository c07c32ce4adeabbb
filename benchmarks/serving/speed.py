"""Throughput in closed loop: the same artifact, stages and store behind each server, after equal answers."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import Progress

from benchmarks.provenance import made_by
from benchmarks.serving import servers, workloads
from benchmarks.serving.answers import CHECKED, check, first_answers
from benchmarks.serving.load import Load, closed_loop
from deployments.artifact.reader import Artifact
from deployments.models.backends.parity_gate import MIN_OVERLAP
from deployments.stages.scoring import Scorer
from graphs.config_file import load, recommender_args
from graphs.evaluation.results_file import write_section

WARM_S, FILL_S = 4.0, 30.0
"""Seconds of load before a measurement: before each one, and before the last one of servers with a cache."""

REFERENCE = "FastAPI + uvicorn x2, per request"
"""The server with the reference answers: no batching, nothing of ours around the recommender."""


def closed(
    config: str, zipf: float, names: Sequence[str], clients: Sequence[int], rounds: int, seconds: float
) -> Iterator[tuple[str, int, float, float, Load | None, float]]:
    """Yields (server, clients, requests/s, p50 ms, the load, its share of cache hits); the rounds are interleaved.

    Raises:
        SystemExit: a server gives other answers than the reference.
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
                        servers.clear_caches()
                        with servers.server(server, config, folder) as url:
                            if turn == 0:
                                found = first_answers(url, bodies)
                                reference = reference or found
                                check(server, found, reference)
                            sent = 20_000 * turn
                            for count in clients:
                                lead_s = FILL_S if "as shipped" in server and count == clients[-1] else WARM_S
                                sent += closed_loop(url, bodies, count, lead_s, offset=sent).sent  # not counted
                                before = cache_counts(url)
                                result = closed_loop(url, bodies, count, seconds, offset=sent)
                                hits, misses = (now - then for now, then in zip(cache_counts(url), before, strict=True))
                                sent += result.sent
                                share = hits / max(1.0, hits + misses)
                                yield server, count, result.per_second, result.p50_ms, result, share
                    bars.advance(bar)


def cache_counts(url: str) -> tuple[float, float]:
    """Cache hits and misses so far; 0 for servers without a cache."""
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
    """Measures every server, and writes the section."""
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
        f"at least {MIN_OVERLAP:.0%} of the items, as the parity gate requires. `bad answers`: errors and degraded "
        "answers under load; the requests per second leave them out. A cache is empty at a server's start. "
        f"{FILL_S:g} s of the same traffic fill it before the last load, and no draw of users is sent twice. "
        "`cache hits`: the share of the computed requests whose candidates and scores were in the cache."
    )
    title = f"## Speed, closed loop: {workload}, shipped {chosen.backend} in {chosen.precision}"
    write_section(out, "\n".join([title, "", made_by(command, artifact), "", text, "", *lines]))
