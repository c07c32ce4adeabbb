"""The cost of the scoring stage: milliseconds per request on one core, over candidates that the funnel produces.

`features` is the time to build the input of the model from the messages, `model` the time of the rest of the stage. The
first row is the model as it was trained, over the features of every candidate.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import torch
from rich.progress import Progress

from deployments.artifact.reader import Artifact
from deployments.assembly import HISTORIES
from deployments.messages import PAD, CandidateBatch, HistoryBatch, ProfileBatch
from deployments.models.backends.parity_gate import PLAIN, Gate, combination
from deployments.models.backends.selection import RunningModel, start
from deployments.models.backends.unavailable import BackendUnavailable
from deployments.models.features.schema import Schema
from deployments.models.features.user_features import UserFeatures
from deployments.models.fused_dcn_v2 import FusedDCNv2
from deployments.stages.scoring import Scorer, ScorerConfig, load_ranker
from graphs.config import RecommenderArgs
from graphs.config_file import load, recommender_args
from graphs.evaluation.held_out import TrainedRanker
from graphs.evaluation.offline_funnel import OfflineFunnel
from graphs.evaluation.results_file import write_section

ROUNDS = 3
RECORDED = 256
"""Requests that the batches are taken from, in turn."""

Inputs = tuple[ProfileBatch, CandidateBatch]


def histories(artifact: Artifact, count: int, seed: int = 1) -> HistoryBatch:
    """The histories of `count` random users of the artifact, as the store would give them."""
    table = artifact.table(HISTORIES)
    users = table.column("user_id").to_numpy(zero_copy_only=False)
    ids = artifact.table("catalogue.arrow").column("item_id").to_pylist()
    position = dict(zip(ids, range(len(ids)), strict=True))
    items = np.array([position.get(item, PAD) for item in table.column("item_id").to_pylist()], np.int32)
    times, weights = table.column("timestamp").to_numpy(), table.column("weight").fill_null(1.0).to_numpy()
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
    types_BH, ages_BH = np.empty((count, 0), np.int16), np.empty((count, 0), np.float32)
    return HistoryBatch(
        artifact.model_version, item_BH, time_BH, weight_BH, item_BH >= 0, types_BH, ages_BH, features_BF
    )


def recorded(artifact: Artifact, config: RecommenderArgs, n_candidates: int, count: int = RECORDED) -> Inputs:
    """The inputs of the scoring stage for `count` requests with exactly `n_candidates` candidates each."""
    stages = config.stages
    chosen = stages.candidates.config.model_copy(update={"n_candidates": n_candidates})
    candidate_args = stages.candidates.model_copy(update={"config": chosen})
    funnel = OfflineFunnel(artifact, stages.model_copy(update={"candidates": candidate_args}))
    # Each request asks for that many items: popular items then fill the places that the sources leave open.
    _, profiles, candidates = funnel.retrieve(histories(artifact, count), n_candidates)
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


Way = tuple[Callable[[ProfileBatch, CandidateBatch], object], Callable[[ProfileBatch, CandidateBatch], object]]
"""The features alone, and the whole scoring stage."""


def as_trained(artifact: Artifact) -> Way:
    """The trained model over the features of every candidate."""
    trained = TrainedRanker(artifact)
    return trained.features, trained


def combinations(artifact: Artifact) -> Iterator[tuple[str, Way]]:
    """Eager fp32, and every packaged combination that runs on this machine."""
    model = FusedDCNv2(load_ranker(artifact))
    for name in dict.fromkeys([combination(*PLAIN), *sorted(artifact.manifest.gates, reverse=True)]):
        backend, precision = name.split("-")
        scorer = Scorer(artifact, ScorerConfig(device="cpu"))
        try:
            run = start(artifact, model, backend, precision, "cpu")  # type: ignore[arg-type]
        except BackendUnavailable as error:
            print(f"{name}: {error}")
            continue
        scorer.running = RunningModel(run, backend, precision)  # also a combination that failed the gate
        yield name, (scorer.features.rows, scorer)


def first_product(artifact: Artifact, count: int, seconds: float) -> tuple[float, float]:
    """Milliseconds per request of the first matrix product of the fused model, over all columns and over the columns of
    (user, item) pairs alone. For the latter the terms of the other columns are precomputed, per item and per user.
    """
    layer = FusedDCNv2(load_ranker(artifact)).first
    n_items, wide = len(artifact.tensors("popularity.safetensors")["score_N"]), layer.out_features
    generator = torch.Generator().manual_seed(1)
    pair = [i for i, feature in enumerate(Schema.load(artifact).ranker) if feature.per == "candidate"]
    weight = layer.weight[:, pair].T.contiguous()
    rows_RF = torch.randn(RECORDED * count, layer.in_features, generator=generator)
    pair_RP = rows_RF[:, pair].contiguous()
    item_terms, user_term = (torch.randn(size, generator=generator) for size in ((n_items, wide), (wide,)))
    items_R = torch.randint(0, n_items, (len(rows_RF),), generator=generator)
    took: tuple[list[float], list[float]] = [], []
    began = time.perf_counter()
    with torch.inference_mode():
        while time.perf_counter() - began < seconds:
            for at in range(0, len(rows_RF), count):
                part = slice(at, at + count)
                start_ = time.perf_counter()
                layer(rows_RF[part])
                middle = time.perf_counter()
                item_terms[items_R[part]].add_(user_term).addmm_(pair_RP[part], weight)
                took[0].append(middle - start_)
                took[1].append(time.perf_counter() - middle)
    return statistics.median(took[0]) * 1e3, statistics.median(took[1]) * 1e3


def scoring(config: str, out: str, batches: Sequence[int], counts: Sequence[int], seconds: float) -> None:
    """Measures every combination that runs on this machine, and writes the section."""
    torch.set_num_threads(1)
    args = recommender_args(load(config))
    artifact = Artifact.open(args.artifact)
    ways = {"as trained": as_trained(artifact)} | dict(combinations(artifact))
    lines = ["| backend, precision | gate | candidates | batch | features ms | model ms | ms per request |"]
    lines.append("|---" * 7 + "|")
    measured: dict[tuple[int, int], dict[str, list[float]]] = {}
    with Progress() as bars:
        bar = bars.add_task("scoring", total=ROUNDS * len(ways) * len(batches) * len(counts))
        for count in counts:
            inputs = recorded(artifact, args, count)
            for batch in batches:
                taken = measured[count, batch] = {name: [] for name in ways}
                for _ in range(ROUNDS):  # interleaved, because the speed of the machine varies
                    for name, (features, total) in ways.items():
                        taken[name] += [timed(features, inputs, batch, seconds), timed(total, inputs, batch, seconds)]
                        bars.advance(bar)
    for name in ways:
        gate = artifact.manifest.gates.get(name)
        verdict = "" if gate is None else "passed" if Gate.model_validate(gate).passed else "failed"
        for (count, batch), taken in measured.items():
            features_ms, total_ms = (statistics.median(taken[name][part::2]) for part in (0, 1))
            lines.append(
                f"| {name} | {verdict} | {count} | {batch} "
                f"| {features_ms:.3f} | {total_ms - features_ms:.3f} | {total_ms:.3f} |"
            )
            print(lines[-1])
    command = f"python -m benchmarks scoring --seconds {seconds:g}"
    parts = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "numba"))
    made_by = (
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, one of {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}, Python {platform.python_version()}, {parts}, "
        f"model {artifact.model_version}."
    )
    text = (
        f"The scoring stage alone, on one thread, over {RECORDED} recorded requests of the artifact's users, with "
        f"exactly as many candidates as stated; medians of {ROUNDS} interleaved rounds. `as trained`: the model of "
        "training over features of every candidate; the others as served. A combination that failed the gate is "
        "refused by the Scorer; the table shows its speed all the same."
    )
    whole, gathered = first_product(artifact, max(counts), 4 * seconds)
    remark = (
        f"The first product of {max(counts)} candidates takes {whole:.3f} ms over all columns; with the terms of the "
        f"item's and the user's own columns precomputed and gathered, {gathered:.3f} ms. So their columns are "
        "precomputed (standardised and clipped), and their terms are not."
    )
    write_section(out, "\n".join(["## Speed: scoring", "", made_by, "", text, "", *lines, "", remark]))
