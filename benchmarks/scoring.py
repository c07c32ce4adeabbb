"""What scoring costs: milliseconds per request on one core, over candidates that the funnel really produces.

Each request gets as many candidates as stated. `features` is what makes the model's input from the messages, `model`
the rest of the scoring stage.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import torch
from rich.progress import Progress

from deployments.candidates import CandidateGenerator
from deployments.flow import Query, request_batch
from deployments.funnel import HISTORIES
from deployments.messages import PAD, CandidateBatch, HistoryBatch, ProfileBatch
from deployments.models.artifact import Artifact
from deployments.models.user_features import UserFeatures
from deployments.profiles import Profiles
from deployments.scoring import Scorer
from graphs.config import RecommenderArgs
from graphs.results import write_section
from graphs.serving import load, recommender_args

RECORDED = 256
"""Requests; batches are drawn from them in turn."""

Inputs = tuple[ProfileBatch, CandidateBatch]


def histories(artifact: Artifact, count: int, seed: int = 1) -> HistoryBatch:
    """Histories of users drawn evenly from the artifact's, as the store would give them."""
    table = artifact.table(HISTORIES)
    users = table.column("user_id").to_numpy(zero_copy_only=False)
    ids = artifact.table("catalogue.arrow").column("item_id").to_pylist()
    position = dict(zip(ids, range(len(ids)), strict=True))
    items = np.array([position.get(item, PAD) for item in table.column("item_id").to_pylist()], np.int32)
    times, weights = (table.column(name).to_numpy() for name in ("timestamp", "weight"))
    drawn = np.random.default_rng(seed).choice(np.unique(users), count)
    rows = [np.flatnonzero((users == user) & (items >= 0)) for user in drawn]
    width = max(len(row) for row in rows)
    item_BH = np.full((count, width), PAD, np.int32)
    time_BH, weight_BH = np.zeros((count, width)), np.zeros((count, width), np.float32)
    for b, row in enumerate(rows):
        ordered = row[np.argsort(times[row], kind="stable")]
        item_BH[b, : len(row)], time_BH[b, : len(row)] = items[ordered], times[ordered]
        weight_BH[b, : len(row)] = weights[ordered]
    features_BF = UserFeatures(artifact)([str(user) for user in drawn])
    return HistoryBatch(artifact.model_version, item_BH, time_BH, weight_BH, features_BF)


def recorded(artifact: Artifact, config: RecommenderArgs, n_candidates: int, count: int = RECORDED) -> Inputs:
    """What the scoring stage is given for `count` requests: exactly `n_candidates` candidates each."""
    profiles = Profiles(artifact, config.stages.profile.config)(histories(artifact, count))
    chosen = config.stages.candidates.config.model_copy(update={"n_candidates": n_candidates})
    # An answer of that many items is asked for, so that popularity fills up what the sources leave open.
    requests = request_batch([Query("", n_candidates, 0.0)] * count, artifact.model_version)
    candidates = CandidateGenerator(artifact, chosen)(requests, profiles)
    assert candidates.mask_BK.all()
    return profiles, candidates


def timed(call: Callable[[ProfileBatch, CandidateBatch], object], inputs: Inputs, batch: int, seconds: float) -> float:
    """Median milliseconds per request of `call`, over batches of `batch` requests."""
    profiles, candidates = inputs
    starts = range(0, len(profiles) - batch + 1, batch)
    batches = [(profiles.take(slice(s, s + batch)), candidates.take(slice(s, s + batch))) for s in starts]
    for pair in batches[:3]:
        call(*pair)
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < 5 or time.perf_counter() - began < seconds:
        pair = batches[len(took) % len(batches)]
        start = time.perf_counter()
        call(*pair)
        took.append(time.perf_counter() - start)
    return statistics.median(took) / batch * 1e3


def scoring(config: str, out: str, batches: Sequence[int], counts: Sequence[int], seconds: float) -> None:
    """Measures every way of scoring that can run here, and writes the section."""
    torch.set_num_threads(1)
    args = recommender_args(load(config))
    artifact = Artifact.open(args.artifact)
    ways = {"eager, fp32": Scorer(artifact, args.stages.scoring.config)}
    lines = ["| backend | candidates | batch | features ms | model ms | ms per request |", "|---" * 6 + "|"]
    with Progress() as bars:
        bar = bars.add_task("scoring", total=len(ways) * len(batches) * len(counts))
        for count in counts:
            inputs = recorded(artifact, args, count)
            for name, scorer in ways.items():
                for batch in batches:
                    features = timed(scorer.features.rows, inputs, batch, seconds)
                    total = timed(scorer, inputs, batch, seconds)
                    lines.append(
                        f"| {name} | {count} | {batch} | {features:.3f} | {total - features:.3f} | {total:.3f} |"
                    )
                    print(lines[-1])
                    bars.advance(bar)
    command = f"python -m benchmarks scoring --seconds {seconds:g}"
    parts = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "numba"))
    made_by = (
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, one of {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}, Python {platform.python_version()}, {parts}, "  # type: ignore[no-untyped-call]
        f"model {artifact.model_version}."
    )
    text = (
        f"The scoring stage alone, on one thread, over {RECORDED} recorded requests of the artifact's users, with "
        "exactly as many candidates as stated; medians."
    )
    write_section(out, "\n".join(["## Speed: scoring", "", made_by, "", text, "", *lines]))
