"""CPU time under load: per process, and within the ingress per part of the code, sampled by py-spy.

A sample counts for the part of its innermost frame that belongs to one. So a JSON dump that our code calls counts as
ours, and a socket read by the event loop counts as the event loop.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.provenance import made_by
from benchmarks.serving import servers, workloads
from benchmarks.serving.load import closed_loop
from deployments.artifact.reader import Artifact
from graphs.config_file import load, recommender_args
from graphs.evaluation.results_file import write_section

RATE = 200
"""Samples per second."""

PARTS = {
    "stages: model work": r"(^|/)deployments/(stages|retrieval|models)/",
    "ours: HTTP": r"(^|/)deployments/(api/(fast_path/|http\.py)|replicas/ingress\.py)",
    "ours: validation, answer": r"(^|/)deployments/(api|artifact)/",
    "ours: histories and cache": r"(^|/)deployments/(store/|pipeline/(history_reader|result_cache)\.py)",
    "ours: metrics, drift, rest": r"(^|/)(monitoring/|deployments/telemetry/)",
    "ours: batcher, pipeline, messages": r"(^|/)deployments/",
    "Redis client": r"(^|/)redis/",
    "gRPC": r"(^|/)grpc/",
    "uvicorn, Starlette, FastAPI": r"(^|/)(uvicorn|starlette|fastapi)/",
    "Ray Serve": r"(^|/)ray/serve/",
    "Ray": r"(^|/)(ray/|_raylet)",
    "event loop": r"(^|/)(asyncio|uvloop)/|^<uvloop>",
}
"""Part → pattern of the file names that belong to it; the first that matches."""
FUNNEL = ("ours: validation, answer", "ours: batcher, pipeline, messages")
"""The parts that every request passes, whether it comes by HTTP or by a handle."""

_PROCESSES = {
    "ray::ServeController": "Serve's controller",
    "ray::": "other Ray workers",
    "raylet": "raylet",
    "gcs_server": "GCS",
    "haproxy": "HAProxy",
    "valkey": "Valkey",
    "dashboard": "dashboard",
}

_WAITING = re.compile(
    r"(_worker \(concurrent/futures/thread\.py|(run|wait) \(threading\.py|main_loop \(ray/[^:)]+|"
    r"select \(selectors\.py)(:\d+)?\)$"
)
"""Innermost frames of waiting threads; py-spy does not always recognise them as idle."""

_FRAME = re.compile(r"\((?P<file>[^()]*?)(:\d+)?\)$")


def part_of(stack: str) -> str:
    """The part of a stack in py-spy's raw format: `outer (file:line);…;inner (file:line)`."""
    for frame in reversed(stack.split(";")):
        found = _FRAME.search(frame)
        file = found["file"] if found else ""
        for part, pattern in PARTS.items():
            if re.search(pattern, file):
                return part
    return "other"


def shares(lines: Iterable[str]) -> dict[str, float]:
    """Share of the samples per part, from py-spy's raw output (`stack count`), without waiting threads."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if _WAITING.search(stack):
            continue
        counts[part_of(stack)] += int(count)
    total = max(1, counts.total())
    return {part: count / total for part, count in counts.most_common()}


def profile(base: str, workload: str, out: str, name: str, clients: int, seconds: float) -> None:
    """Puts load on the server, samples its ingress and writes the section."""
    with tempfile.TemporaryDirectory(prefix="rfb") as tmp:
        folder = Path(tmp)
        config = workloads.config(base, workload, folder)
        artifact = Artifact.open(recommender_args(load(config)).artifact)
        bodies = workloads.bodies(artifact, folder, workloads.WORKLOADS[workload].zipf)
        with servers.store(folder, str(artifact.folder)), servers.server(name, config, folder) as url:
            closed_loop(url, bodies, clients, 3)
            used, rate = _used(url, bodies, clients, seconds)
            raw = _sampled(url, bodies, clients, seconds, folder)
    parts = shares(raw)
    all_us = sum(used.values())
    ours = sum(share for part, share in parts.items() if part.startswith("ours"))
    funnel = sum(parts.get(part, 0.0) for part in FUNNEL)

    def of(share: float) -> str:
        return f"{share:.1%} of the ingress' CPU, {share * used['Ingress']:.0f} µs a request"

    lines = [
        *("| process | µs of CPU a request | of all |", "|---|---|---|"),
        *(f"| {who} | {us:.0f} | {us / all_us:.0%} |" for who, us in used.items() if us >= 0.005 * all_us),
        *("", "| within the ingress | of its CPU |", "|---|---|"),
        *(f"| {part} | {share:.1%} |" for part, share in parts.items()),
        "",
        f"**Batcher, pipeline, messages and validation: {of(funnel)}; all of our own code {of(ours)}.** Our",
        "HTTP code does the work of uvicorn, Starlette and Serve's wrapper.",
    ]
    command = f"python -m benchmarks cpu --workload {workload} --server '{name}' --clients {clients}"
    text = (
        f"{name}, {workloads.WORKLOADS[workload].what}. {clients} clients, {rate:.0f} requests/s; py-spy at {RATE} Hz."
    )
    title = f"## Speed, where the CPU goes: {workload}, {name}"
    write_section(out, "\n".join([title, "", made_by(command, artifact), "", text, "", *lines]))


def process_title(pid: str) -> str:
    """The name of a process: the deployment of a Serve replica, else the program; empty: it ended, or is not ours."""
    try:
        title = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
    if found := re.search(r"ServeReplica:\w+:([\w-]+)", title):
        return found[1]
    return next((name for known, name in _PROCESSES.items() if known in title), "")


def _seconds() -> dict[tuple[str, str], float]:
    """CPU seconds by (process id, title)."""
    spent = {}
    for path in Path("/proc").glob("[0-9]*"):
        if title := process_title(path.name):
            with contextlib.suppress(OSError):  # the process has ended
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                spent[path.name, title] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


def _used(url: str, bodies: Path, clients: int, seconds: float) -> tuple[Mapping[str, float], float]:
    """µs of CPU per request for each kind of process, and requests per second."""
    before, load_before = _seconds(), _children()
    rate = closed_loop(url, bodies, clients, seconds).per_second
    used: dict[str, float] = defaultdict(float, {"wrk, the load": _children() - load_before})
    for key, spent in _seconds().items():
        used[key[1]] += spent - before.get(key, 0.0)
    most_first = sorted(used.items(), key=lambda item: -item[1])
    return {process: 1e6 * spent / (rate * seconds) for process, spent in most_first}, rate


def _children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _sampled(url: str, bodies: Path, clients: int, seconds: float, folder: Path) -> list[str]:
    """py-spy's raw output of one ingress replica under load."""
    spy = shutil.which("py-spy", path=str(servers.BIN)) or shutil.which("py-spy")
    if spy is None:
        raise SystemExit("py-spy is missing; install the extra `bench`")
    pid = next(path.name for path in Path("/proc").glob("[0-9]*") if process_title(path.name) == "Ingress")
    output = folder / "ingress.raw"
    command = [spy, "record", "-p", pid, "-d", f"{seconds:.0f}", "-r", str(RATE), "-f", "raw", "-o", str(output)]
    loading = threading.Thread(target=closed_loop, args=(url, bodies, clients, seconds + 3))
    loading.start()
    subprocess.run(command, check=True, capture_output=True)
    loading.join()
    return output.read_text().splitlines()
