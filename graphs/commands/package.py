"""Packaging: what makes scoring cheaper is built, held against the plain model, and recorded in the artifact.

Shapes: R requests, K candidates, W items wanted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import ConfigError
from deployments.messages import Batch, Bools, CandidateBatch, Floats, HistoryBatch, ProfileBatch, RequestBatch
from deployments.models.backends import compiled, machine, parity_gate
from deployments.models.backends.parity_gate import PLAIN, Gate, combination
from deployments.models.backends.precision import AnyPrecision, Precision
from deployments.models.backends.row_chunks import Run
from deployments.models.backends.selection import Backend, precisions_to_measure, start, unsupported_reason
from deployments.models.backends.unavailable import BackendUnavailable
from deployments.models.features.ranking_features import RankingFeatures
from deployments.models.features.user_features import UserFeatures
from deployments.models.fused_dcn_v2 import FusedDCNv2
from deployments.pipeline.request import Query, request_batch
from deployments.stages import warm_up
from deployments.stages.candidates import CandidateGenerator
from deployments.stages.profile import Profiles
from deployments.stages.scoring import Scorer, ScorerConfig, load_ranker, standardisation
from graphs.config import RecommenderArgs, Stages
from graphs.data.dataset import Dataset, Interactions, load, temporal_split
from graphs.fit.ranker import history_rows

REQUESTS = 1000
TOP = 10
_STEP = 64

Asked = tuple[Backend, Precision]


@dataclass(frozen=True)
class HeldOut:
    """Requests of the test users with their candidates, which of these came true, and the plain model's scores."""

    batches: list[tuple[ProfileBatch, CandidateBatch]]
    wanted: list[Bools]
    count_R: list[int]
    """Items that came true, candidates or not."""
    plain: list[Floats]
    recorded: list[Batch]
    """The first batch's messages, as warm_up.py keeps them."""


def asked(backend: Backend, precision: AnyPrecision) -> list[Asked]:
    """The combinations that a config's words stand for on this machine."""
    return [
        (backend, each) for each in precisions_to_measure(precision, "cuda" if torch.cuda.is_available() else "cpu")
    ]


def package(writer: ArtifactWriter, held_out: HeldOut, wanted: Sequence[Asked], console: Console) -> None:
    """Adds the recorded requests, and for each (backend, precision) wanted its gate and its compiled code.

    What can't be made here is written down with the reason, and said on the console.
    """
    artifact = writer.preview()
    warm_up.write_recording(writer, held_out.recorded)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_ranker(artifact)
    for backend, precision in wanted:
        if (backend, precision) == PLAIN:
            continue
        name, built_for = combination(backend, precision), machine.signature(device, precision)
        try:
            if backend == "compiled":
                compiled.compile_to(writer.derived(compiled.file_name(precision)), FusedDCNv2(model), precision, device)
            writer.gates[name] = {"built_for": built_for}
            gate = _gate(writer.preview(), held_out, backend, precision, device)
        except BackendUnavailable as error:
            gate = Gate(unavailable=str(error))
        writer.gates[name] = gate.model_dump(mode="json")
        console.print(f"scoring {name}: {gate}")


def repackage(path: str, data: str, config: RecommenderArgs, backend: Backend, precision: AnyPrecision) -> Artifact:
    """Adds a combination to a finished artifact, which keeps its model version.

    Raises:
        ConfigError: there is no such combination, or it failed the gate; the numbers (they are in the manifest, too).
    """
    if reason := unsupported_reason(backend, precision):
        raise ConfigError(reason)
    with ArtifactWriter(path) as writer:
        writer.copy_from(Artifact.open(path))
        held_out = hold_out(writer.preview(), load(data, config.store), config.stages)
        package(writer, held_out, asked(backend, precision), Console())
    artifact = Artifact.open(path)
    parity_gate.require_passed(artifact, backend, precision)
    return artifact


def hold_out(artifact: Artifact, dataset: Dataset, stages: Stages) -> HeldOut:
    """Up to REQUESTS: each test user at the cut of the evaluation, then at the middle of what came after it."""
    train, test = temporal_split(dataset.interactions)
    users = np.unique(test.user_E)
    at_U, after_U = np.searchsorted(test.user_E, users), np.searchsorted(test.user_E, users, side="right")
    middle_U = (at_U + after_U) // 2
    # A test user's later request knows the first half of what came true, and is judged by the second.
    later = np.flatnonzero(middle_U > at_U)
    cuts = [(int(users[u]), int(at_U[u]), int(at_U[u]), int(after_U[u])) for u in range(len(users))]
    cuts += [(int(users[u]), int(at_U[u]), int(middle_U[u]), int(after_U[u])) for u in later]
    cuts = cuts[:REQUESTS]
    profile_stage = Profiles(artifact, stages.profile.config)
    generator = CandidateGenerator(artifact, stages.candidates.config)
    plain_model, features = load_ranker(artifact), RankingFeatures(artifact)
    user_features = UserFeatures(artifact)
    found = HeldOut([], [], [], [], [])
    for begin in range(0, len(cuts), _STEP):
        part = cuts[begin : begin + _STEP]
        histories = _histories(artifact, train, test, part, user_features([dataset.users[cut[0]] for cut in part]))
        requests = request_batch([Query("", TOP, 0.0)] * len(part), artifact.model_version)
        profiles = profile_stage(histories)
        candidates = generator(requests, profiles)
        with torch.inference_mode():
            scores_BK = plain_model(torch.from_numpy(features(profiles, candidates))).numpy()
        found.batches.append((profiles, candidates))
        found.plain.append(np.where(candidates.mask_BK, scores_BK, np.float32(-np.inf)))
        came_true = [np.isin(candidates.item_ids_BK[b], test.item_E[c[2] : c[3]]) for b, c in enumerate(part)]
        found.wanted.append(np.stack(came_true) & candidates.mask_BK)
        found.count_R.extend(cut[3] - cut[2] for cut in part)
        if not begin:
            found.recorded.extend(record(artifact, histories, requests, profiles, candidates))
    return found


def record(
    artifact: Artifact,
    histories: HistoryBatch,
    requests: RequestBatch,
    profiles: ProfileBatch,
    candidates: CandidateBatch,
) -> list[Batch]:
    """One message of each kind, of the first requests, as warm_up.py keeps them."""
    plain = Scorer(artifact, ScorerConfig(backend=PLAIN[0], precision=PLAIN[1]))
    messages: list[Batch] = [histories, requests, profiles, candidates, plain(profiles, candidates)]
    return [message.take(slice(warm_up.RECORDED_ROWS)) for message in messages]


def _histories(
    artifact: Artifact, train: Interactions, test: Interactions, cuts: Sequence[tuple[int, int, int, int]], x_BF: Floats
) -> HistoryBatch:
    """The user's events before the split, then the test events up to the cut."""
    parts, starts, ends = [], [], []
    end = 0
    for user, first, cut, _ in cuts:
        own = slice(*np.searchsorted(train.user_E, [user, user + 1]))
        parts += [(train, own), (test, slice(first, cut))]
        starts.append(end)
        end += own.stop - own.start + cut - first
        ends.append(end)
    joined = Interactions(
        *(np.concatenate([getattr(events, name)[rows] for events, rows in parts]) for name in
          ("user_E", "item_E", "timestamp_E", "weight_E"))
    )  # fmt: skip
    return history_rows(joined, starts, ends, x_BF, artifact.model_version)


def _gate(artifact: Artifact, held_out: HeldOut, backend: Backend, precision: Precision, device: str) -> Gate:
    """Measures the combination as the Scorer runs it.

    Raises:
        BackendUnavailable: it can't run here.
    """
    model = load_ranker(artifact)
    run = start(artifact, FusedDCNv2(model), backend, precision, device)
    plain = start(artifact, FusedDCNv2(model), *PLAIN, device)
    features = RankingFeatures(artifact, standardisation(model))
    overlap, ndcg, plain_ndcg, speedup = [], [], [], []
    counts = iter(held_out.count_R)
    for (profiles, candidates), wanted_BK, plain_BK in zip(
        held_out.batches, held_out.wanted, held_out.plain, strict=True
    ):
        scores_BK = np.full(candidates.mask_BK.shape, -np.inf, np.float32)
        with torch.inference_mode():
            rows = torch.from_numpy(features.rows(profiles, candidates)).to(device)
            (scores_R, took_s), (_, plain_s) = _timed(run, rows), _timed(plain, rows)
            scores_BK[candidates.mask_BK] = scores_R.numpy()
            speedup.append(plain_s / took_s)
        for b in range(len(scores_BK)):
            real = int(candidates.mask_BK[b].sum())
            best, plain_best = (np.argsort(-s[b], kind="stable")[: min(TOP, real)] for s in (scores_BK, plain_BK))
            count = next(counts)
            overlap.append(len(np.intersect1d(best, plain_best)) / max(1, len(plain_best)))
            ndcg.append(_ndcg(wanted_BK[b, best], count))
            plain_ndcg.append(_ndcg(wanted_BK[b, plain_best], count))
    means = (float(np.mean(values)) for values in (overlap, ndcg, plain_ndcg))
    return Gate(
        requests=len(overlap),
        speedup=round(float(np.median(speedup)), 3),
        built_for=machine.signature(device, precision),
        **dict(zip(("overlap", "ndcg", "plain_ndcg"), means, strict=True)),
    )


def _timed(run: Run, rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Scores on the CPU, and the seconds of the faster of two calls, on one thread as in a replica."""
    seconds, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(2):
        began = time.perf_counter()
        scores_R = run(rows).cpu()
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return scores_R, min(seconds)


def _ndcg(hits: Bools, wanted: int) -> float:
    """NDCG@10 with binary gains, as in evaluation.py."""
    discount = 1 / np.log2(np.arange(2, TOP + 2))
    return float(discount[: len(hits)][hits].sum() / discount[: max(1, min(TOP, wanted))].sum())
