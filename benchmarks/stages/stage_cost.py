"""The cost of each stage on one core, on random requests of one size: one process, one JSON line.

python -m benchmarks.stages.stage_cost ARTIFACT --candidates 500 --batch 32 --history 20
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks import synthetic
from deployments.artifact.reader import Artifact
from deployments.messages import Batch
from deployments.stages.candidates import CandidateConfig
from deployments.stages.ranking import RankerConfig
from graphs.config import STAGES, CandidateArgs, RankerArgs, Stages
from graphs.evaluation.offline_funnel import OfflineFunnel

BATCHES = 8
"""Different batches. Each is computed once to warm up, and at least once more."""


def own_mb() -> float:
    """Memory of this process without a file behind it, MiB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:"))


def timed(stage: Callable[..., Batch], batches: list[tuple[Batch, ...]], seconds: float) -> tuple[float, list[Any]]:
    """Median seconds of a call, and the answers."""
    answers = [stage(*batch) for batch in batches]
    took: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(took) < len(batches):
        began = time.perf_counter()
        stage(*batches[len(took) % len(batches)])
        took.append(time.perf_counter() - began)
    return float(np.median(took)), answers


def measure(path: str, candidates: int, batch: int, history: int, seconds: float) -> dict[str, Any]:
    """Per stage: `ms` per request on one core, `mb` of own memory and `ready_s` to load."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    began = time.perf_counter()
    artifact = Artifact.open(path)
    opened_s = time.perf_counter() - began
    stages = Stages(
        candidates=CandidateArgs(config=CandidateConfig(n_candidates=candidates)),
        ranking=RankerArgs(config=RankerConfig(diversity=0.1)),
    )
    funnel = OfflineFunnel(artifact, stages)
    histories = [synthetic.histories(artifact, batch, history, seed) for seed in range(BATCHES)]
    requests = [funnel.requests(batch, n=10)] * BATCHES
    result: dict[str, Any] = {"check_s": opened_s, "index": artifact.manifest.settings.get("index", {})}
    for name in STAGES:
        before_mb, began = own_mb(), time.perf_counter()
        getattr(funnel, name)  # loads the stage
        result[name] = {"ready_s": time.perf_counter() - began, "mb": own_mb() - before_mb}

    def run(name: str, batches: list[tuple[Batch, ...]]) -> list[Any]:
        before_mb = own_mb()
        took, answers = timed(getattr(funnel, name), batches, seconds)
        result[name] |= {"ms": took * 1e3 / batch, "mb": result[name]["mb"] + own_mb() - before_mb}
        return answers

    profiles = run("profile", [(batch_,) for batch_ in histories])
    found = run("candidates", list(zip(requests, profiles, strict=True)))
    result["found"] = float(np.mean([batch.mask_BK.sum(axis=1).mean() for batch in found]))
    scores = run("scoring", list(zip(profiles, found, strict=True)))
    run("ranking", list(zip(requests, [batch.items_only() for batch in found], scores, strict=True)))
    return result


def main() -> None:
    """Parses the arguments and prints the measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages.stage_cost", description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--history", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0, help="per stage")
    args = parser.parse_args()
    print(json.dumps(measure(args.artifact, args.candidates, args.batch, args.history, args.seconds)))


if __name__ == "__main__":
    main()
