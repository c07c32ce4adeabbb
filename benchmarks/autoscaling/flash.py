"""The live flash crowd: our policy against Ray Serve's law, on one machine, with a scorer whose device is emulated.

`python -m benchmarks flash --rounds 1` adds a round (one run of each policy, and one of ours after a step instead of a
ramp) to the saved ones in artifacts/bench, and writes the section and the plot from all of them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.autoscaling import priorities
from benchmarks.autoscaling.crowd import (
    BASE,
    BUDGET,
    CHOSEN,
    LINE,
    MAX_BATCH,
    MOST,
    MOST_COST,
    POINTS_S,
    POLICIES,
    SLO_S,
    STABLE_S,
    START,
    STEP_S,
    TIMES,
    TUNED_FOR_S,
    onset_floor_s,
    schedule,
    simulated,
)
from benchmarks.autoscaling.study import interval
from benchmarks.plots import flash_crowd
from benchmarks.serving import servers, workloads
from benchmarks.serving.open_loop import send_all
from benchmarks.serving.workloads import FOLDER
from cluster.autoscaling.policy import PolicyConfig
from cluster.simulator.funnel import TICK_S
from cluster.simulator.results import Run
from deployments.artifact.reader import Artifact
from graphs.commands.serve import environment
from graphs.evaluation.results_file import write_section

SAMPLE_S = 0.5
_UPSCALING = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*Upscaling Deployment\(name='Scorer'")
STEP = "rayfunnel, step"

Kept = dict[str, Any]


def config(base: str, folder: Path, policy: str) -> Path:
    """The configuration of a run: all stages but the emulated scorer in the ingress."""
    path = servers.config(workloads.config(base, "light", folder), folder, "flash", plain=True, inside=True)
    loaded: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    [application] = loaded["applications"]
    application["import_path"] = "benchmarks.autoscaling.emulated:build"
    args = application["args"]
    args["emulated"] = {"a_s": LINE.a, "c_s": LINE.c}
    args["pipeline"] = {
        "deadline_ms": round(1e3 * SLO_S),
        "reserve_ms": 10,
        "finished_by": {"profile": 0.3, "candidates": 0.5, "scoring": 0.95, "ranking": 1.0},
    }
    args["batcher"] = {
        "max_batch": 1,
        "max_queue": 1024,
        "in_flight": 64,
    }  # Serve's law counts batches
    args["ingress"] = {"replicas": 1, "num_cpus": 0.2}
    args["stages"]["scoring"] |= {"placement": "replica", "num_cpus": 0.1, "slots": 64, "max_rows": MAX_BATCH}
    args["stages"]["scoring"] |= {"replicas": START, "min_replicas": START, "max_replicas": MOST}
    if policy == "rayfunnel":
        numbers: dict[str, Any] = {"slo_ms": 1e3 * SLO_S, "startup_s": 5, "panic_s": 10, "stable_s": STABLE_S}
        numbers |= CHOSEN[policy]
        numbers["priors"] = {"Scorer": [1e3 * LINE.a, 1e3 * LINE.c]}
        application["autoscaling_policy"] = {
            "policy_function": "cluster.autoscaling.serve_adapter:AutoscalingPolicy",
            "policy_kwargs": numbers,
        }
    else:
        bounds = {"min_replicas": START, "max_replicas": MOST, "initial_replicas": START, **CHOSEN[policy]}
        application["deployments"] = [{"name": "Scorer", "autoscaling_config": bounds}]
    path.write_text(yaml.safe_dump(loaded), "utf-8")
    return path


class _ReplicaSampler:
    """Samples of the scorer's replicas from Serve's REST API: (time, target, running, in any state). Replicas that run
    get the priority of the serving processes."""

    def __init__(self, url: str) -> None:
        self._url, self._ended = url, threading.Event()
        self._raised: set[int] = set()
        self.samples: list[tuple[float, int, int, int]] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _ReplicaSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def now(self) -> tuple[int, int, int]:
        """Replicas: target, running, in any state."""
        with urllib.request.urlopen(self._url, timeout=5) as answer:
            loaded: dict[str, Any] = json.load(answer)
        scorer = loaded["applications"]["recommender"]["deployments"]["Scorer"]
        states = [replica["state"] for replica in scorer["replicas"]]
        running = {replica["pid"] for replica in scorer["replicas"] if replica["state"] == "RUNNING" and replica["pid"]}
        for pid in running - self._raised:
            priorities.raise_priority(Path("/proc", str(pid)))
        self._raised |= running
        return scorer["target_num_replicas"], states.count("RUNNING"), len(states)

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            with contextlib.suppress(OSError, KeyError):
                self.samples.append((time.time(), *self.now()))


def live(base: str, policy: str, seed: int, points_s: Sequence[float] = POINTS_S) -> Kept:
    """One run."""
    with tempfile.TemporaryDirectory(prefix="rfbench") as name:
        folder = Path(name)
        path = config(base, folder, policy)
        artifact = yaml.safe_load(path.read_text("utf-8"))["applications"][0]["args"]["artifact"]
        bodies = workloads.bodies(Artifact.open(artifact), folder, zipf=0).read_bytes().splitlines()
        with servers.store(folder, artifact), _serving(path, folder / "server.log"):
            log = (folder / "server.log").read_text()
            found = re.search(r"http://(127\.0\.0\.1:\d+)", log.split("dashboard", 1)[-1])
            address = found.group(1) if found else "127.0.0.1:8265"
            with _ReplicaSampler(f"http://{address}/api/serve/applications/") as sampler:
                _settle(sampler.now)
                priorities.raise_serving()
                began, answers = send_all(servers.URL, bodies, schedule(seed, points_s))
            samples = [(at - began, *counts) for at, *counts in sampler.samples if 0 <= at - began <= points_s[-1]]
            upscaled = [at - began for at in _upscaled((folder / "server.log").read_text())]
    first_s = min((at for at in upscaled if at > POINTS_S[0]), default=math.inf) - POINTS_S[0]
    return {"policy": policy, "seed": seed, "answers": answers, "samples": samples, "first_s": first_s}


def _upscaled(log: str) -> list[float]:
    """Times at which Serve's controller requested more replicas of the scorer, from its log."""
    return [datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp() for at in _UPSCALING.findall(log)]


def _serving(path: Path, log: Path) -> contextlib.AbstractContextManager[None]:
    flags = environment() | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "15"}
    return servers.launched(["serve", "run", str(path)], flags, log, ["/v1/health/ready"])


def _settle(now: Callable[[], tuple[int, int, int]]) -> None:
    """Waits until the replicas that the warm-up added are gone."""
    until = time.monotonic() + 30
    while now()[2] > START and time.monotonic() < until:
        time.sleep(0.5)


def missed(run: Kept) -> np.ndarray:
    """Per request: not answered in full within the objective."""
    return np.array([outcome != "ok" or ms > 1e3 * SLO_S for _, ms, outcome in run["answers"]])


def replicas(run: Kept, column: int = 3) -> np.ndarray:
    """Replicas of the scorer per SAMPLE_S. Column 1: target; 2: running; 3: in any state, from request to exit."""
    samples = np.array(run["samples"])
    grid = np.arange(0, POINTS_S[-1], SAMPLE_S)
    index = np.clip(np.searchsorted(samples[:, 0], grid, side="right") - 1, 0, None)
    return np.asarray(samples[index, column])


def startup_s(runs: Sequence[Kept]) -> float:
    """Median time from a replica's request until it runs: the area between both curves over the replicas started."""
    found = []
    for run in runs:
        there, ready = replicas(run), replicas(run, 2)
        rising = int((POINTS_S[2]) / SAMPLE_S)
        started = int(there[:rising].max() - there[0])
        if started > 0:
            found.append(float((there - ready)[:rising].sum() * SAMPLE_S / started))
    return float(np.median(found)) if found else TUNED_FOR_S


def overhead_s(runs: Sequence[Kept]) -> float:
    """Median time of an answer beyond the emulated device, before the crowd."""
    calm = [ms for run in runs for due, ms, outcome in run["answers"] if due < POINTS_S[0] and outcome == "ok"]
    return max(0.0, float(np.median(calm)) / 1e3 - LINE.seconds(1))


def flash(base: str, out: str, rounds: int, fresh: bool, command: str) -> None:
    """Runs `rounds` more rounds; `fresh`: deletes the earlier ones."""
    kept = FOLDER / "flash.jsonl"
    FOLDER.mkdir(parents=True, exist_ok=True)
    if fresh:
        kept.unlink(missing_ok=True)
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for _ in range(rounds):
        seed = 1 + len(runs) // (len(POLICIES) + 1)
        for policy in (*POLICIES[seed % 3 :], *POLICIES[: seed % 3], STEP):
            run = live(base, POLICIES[0], seed, STEP_S) if policy == STEP else live(base, policy, seed)
            runs.append(run | {"policy": policy})
            with kept.open("a") as file:
                file.write(json.dumps(runs[-1]) + "\n")
            print(f"{policy}: {missed(run).mean():.2%} missed, first {run['first_s']:.1f} s", flush=True)
    by = {policy: [run for run in runs if run["policy"] == policy] for policy in (*POLICIES, STEP)}
    steps = by.pop(STEP)
    picture = flash_crowd(_curves(by), Path(out).parent / "plots" / "flash.png")
    write_section(out, _section(by, steps, command, picture.name))


def _curves(by: Mapping[str, Sequence[Kept]]) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each policy's last run: requests/s, ongoing requests and running replicas, per SAMPLE_S."""
    edges = np.arange(0, POINTS_S[-1] + SAMPLE_S, SAMPLE_S)
    for policy, runs in by.items():
        at = np.array([due for due, _, _ in runs[-1]["answers"]])
        ended = at + np.array([ms for _, ms, _ in runs[-1]["answers"]]) / 1e3
        came, left = np.histogram(at, edges)[0], np.histogram(ended, edges)[0]
        yield policy, came / SAMPLE_S, np.cumsum(came - left), replicas(runs[-1], 2)


def _section(by: Mapping[str, Sequence[Kept]], steps: Sequence[Kept], command: str, picture: str) -> str:
    count = len(by["rayfunnel"])
    sigmas = PolicyConfig().sigmas
    all_runs = [run for runs in by.values() for run in runs]
    start, beyond_s = startup_s(all_runs), overhead_s(all_runs)
    lines = [
        "## Autoscaling, live: flash crowd x10\n",
        f"`{command}`; {count} interleaved runs each. From {BASE:g} to {BASE * TIMES:g} requests/s in "
        f"{POINTS_S[1] - POINTS_S[0]:.0f} s, {POINTS_S[2] - POINTS_S[1]:.0f} s there, {POINTS_S[-1]:.0f} s in all; "
        f"real funnel, Serve and controller, replicas at Ray's nice 15 until they run, then at 0, as what serves them; "
        f"**the scorer's device is emulated**: it sleeps {1e3 * LINE.a:.0f} + "
        f"{1e3 * LINE.c:.0f} ms per request, at most {MAX_BATCH} at a time; {START} to {MOST} replicas. Missed: not "
        f"answered in full within {1e3 * SLO_S:.0f} ms. Replica-seconds: of the scorer, from request to exit. "
        f"{BUDGET} random configurations of ours and of Serve in the simulator, the fewest misses within "
        f"{MOST_COST:.0f} replica-seconds: {CHOSEN['rayfunnel']}; {CHOSEN['Serve, tuned']}. Simulated: the same "
        f"arrivals, start-up {start:.1f} s as measured here, and {1e3 * beyond_s:.0f} ms for all but the device, the "
        "median before the crowd comes; trajectory: mean difference of the replicas running, over their mean. No test "
        "with as few false alarms as "
        f"{sigmas} standard deviations can tell this ramp from noise before {onset_floor_s(sigmas):.1f} s after the "
        "onset, at the median (`onset_floor_s` in benchmarks/autoscaling/crowd.py), and counters are some 0.4 s old. "
        f"After a step to ten times the load at once ours requested one after {_firsts(steps)} s.\n",
        "| policy | missed | p99, ms | replica-s | first new one requested after, s | simulated: missed | p99, ms "
        "| replica-s | trajectory |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for policy, runs in by.items():
        p99 = np.mean([np.percentile([ms for _, ms, _ in run["answers"]], 99) for run in runs])
        twins = [simulated(policy, run["seed"], start, CHOSEN[policy], beyond_s) for run in runs]
        apart = [_apart(run, twin) for run, twin in zip(runs, twins, strict=True)]
        lines.append(
            f"| {policy} | {_of([float(missed(run).mean()) for run in runs])} | {p99:.0f} "
            f"| {np.mean([replicas(run).sum() * SAMPLE_S for run in runs]):.0f} "
            f"| {_firsts(runs)} "
            f"| {np.mean([twin.miss_share for twin in twins]):.2%} "
            f"| {np.mean([1e3 * (twin.p99_s + beyond_s) for twin in twins]):.0f} "
            f"| {np.mean([twin.replica_seconds for twin in twins]):.0f} | {np.mean(apart):.0%} |"
        )
    return "\n".join([*lines, "", f"![load, queue and replicas](plots/{picture})"])


def _firsts(runs: Sequence[Kept]) -> str:
    """Per run the seconds until the first new replica was requested, from Serve's log."""
    return ", ".join(f"{run['first_s']:.1f}" for run in runs)


def _of(shares: Sequence[float]) -> str:
    if len(shares) < 2:
        return f"{shares[0]:.2%}"
    mean, low, high = interval(shares)
    return f"{mean:.2%} ± {(high - low) / 2:.2%}"


def _apart(run: Kept, twin: Run) -> float:
    ready = twin.ready[:: round(SAMPLE_S / TICK_S), 0]
    running = replicas(run, 2)[: len(ready)]
    return float(np.abs(running - ready[: len(running)]).mean() / running.mean())
