"""Fits DCN-V2 on the candidates that the candidate stage really produces.

The retrieval models must not have seen the events that the ranker learns to predict. So the users are divided into
folds. For each fold the retrieval models are fitted without the later part of its users' histories. The ranker learns
to find the items of that part among the candidates, at several cuts per user.

Shapes: R requests (user, cut), K candidates, F features.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.messages import Array, Bools, Floats
from deployments.models.dcn_v2 import DCNv2
from deployments.models.features.ranking_features import RankingFeatures
from deployments.stages.candidates import CandidateConfig
from graphs.config import CandidateArgs, Stages
from graphs.data.dataset import Dataset, Interactions
from graphs.data.splits import ranking_split
from graphs.evaluation.offline_funnel import OfflineFunnel
from graphs.fit.retrieval import write_retrieval
from graphs.fit.transforms import DatasetFeatures

FOLDS, CUTS = 3, 6
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 4, 32, 2e-3, 0.3
SHAPE = {"cross_layers": 2, "cross_rank": 32, "deep": [64, 32]}
DROPOUT = 0.4


@dataclass(frozen=True, slots=True)
class RankingData:
    """Requests with the features of their candidates. `labels_RK`: 1 for candidates that came true; `mask_RK`: no
    padding."""

    features_RKF: Floats
    labels_RK: Floats
    mask_RK: Bools


def ranking_data(
    dataset: Dataset,
    features: DatasetFeatures,
    events: Interactions,
    n_candidates: int,
    seed: int,
    progress: Callable[[float], None] = lambda _: None,
) -> RankingData:
    """Candidates and labels of all folds."""
    rng = np.random.default_rng(seed)
    stages = Stages(candidates=CandidateArgs(config=CandidateConfig(n_candidates=n_candidates)))
    early, late = ranking_split(events)
    users = np.unique(late.user_E)
    fold_of_user = np.full(int(events.user_E.max()) + 1, -1)
    fold_of_user[users] = rng.permutation(len(users)) % FOLDS
    early_count = np.bincount(early.user_E, minlength=len(fold_of_user))
    start_of_user = np.searchsorted(events.user_E, np.arange(len(fold_of_user)))
    place_E = np.arange(len(events)) - start_of_user[events.user_E]
    parts = []
    for fold in range(FOLDS):
        hidden_E = (fold_of_user[events.user_E] == fold) & (place_E >= early_count[events.user_E])
        with tempfile.TemporaryDirectory() as folder:
            with ArtifactWriter(Path(folder) / "fold") as writer:
                write_retrieval(
                    writer, dataset, features, events.take(~hidden_E), seed, partial(_share, progress, fold)
                )
            funnel = OfflineFunnel(Artifact.open(f"{folder}/fold"), stages, dataset.event_types)
            cuts = list(_cuts(events, users[fold_of_user[users] == fold], start_of_user, early_count, rng))
            parts += [_part(funnel, dataset, events, cuts[i : i + 256]) for i in range(0, len(cuts), 256)]
    return RankingData(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("features_RKF", "labels_RK", "mask_RK"))
    )


Cut = tuple[int, int, int]
"""Positions in `Interactions`: the user's first event, the cut, the end of the user's events."""


def _share(progress: Callable[[float], None], fold: int, share: float) -> None:
    progress((fold + share) / FOLDS)


def _cuts(
    events: Interactions, users: Array, start_of_user: Array, early_count: Array, rng: np.random.Generator
) -> Iterator[Cut]:
    """Per user the start of the hidden part, and up to CUTS - 1 random later successes."""
    ends = np.append(start_of_user[1:], len(events))
    for user in users:
        start, end = int(start_of_user[user]), int(ends[user])
        first = start + int(early_count[user])
        later = first + np.flatnonzero(events.target_E[first:end])[1:]
        for cut in [first, *rng.permutation(later)[: CUTS - 1].tolist()]:
            yield start, int(cut), end


def _part(funnel: OfflineFunnel, dataset: Dataset, events: Interactions, cuts: Sequence[Cut]) -> RankingData:
    starts, middles, _ = zip(*cuts, strict=True)
    now_B = events.timestamp_E[np.array(middles)]
    histories = funnel.histories(
        events, starts, middles, now_B, [dataset.users[events.user_E[start]] for start in starts]
    )
    _, profiles, candidates = funnel.retrieve(histories, n=1)
    labels = np.zeros(candidates.item_ids_BK.shape, np.float32)
    for row, (_, cut, end) in enumerate(cuts):
        relevant = events.item_E[cut:end][events.target_E[cut:end]]
        labels[row] = np.isin(candidates.item_ids_BK[row], relevant)
    features = RankingFeatures(funnel.artifact)
    return RankingData(features(profiles, candidates), labels * candidates.mask_BK, candidates.mask_BK)


def fit_ranker(data: RankingData, seed: int, progress: Callable[[float], None] = lambda _: None) -> DCNv2:
    """Minimises the softmax cross-entropy over each request's candidates (ListNet's top-one loss, Cao et al. 2007)."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    shape = SHAPE | {"deep": tuple(SHAPE["deep"])}  # type: ignore[arg-type]
    model = DCNv2(data.features_RKF.shape[2], dropout=DROPOUT, **shape)  # type: ignore[arg-type]
    real = data.features_RKF[data.mask_RK]
    model.mean_F.copy_(torch.from_numpy(real.mean(axis=0)))
    spread_F = real.std(axis=0)
    scale_F = np.where(spread_F > 0, 1 / np.maximum(spread_F, 1e-3), 0)  # 0: nothing was learned of a constant feature
    model.scale_F.copy_(torch.from_numpy(scale_F))
    useful = np.flatnonzero(data.labels_RK.any(axis=1))
    batches = -(-len(useful) // BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=EPOCHS * batches, pct_start=0.1
    )
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(useful)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            label_BK, mask_BK = torch.from_numpy(data.labels_RK[rows]), torch.from_numpy(data.mask_RK[rows])
            score_BK = torch.full(mask_BK.shape, -1e9)
            score_BK[mask_BK] = model(torch.from_numpy(data.features_RKF[rows][data.mask_RK[rows]]))
            loss_B = -(torch.log_softmax(score_BK, dim=1) * label_BK).sum(1) / label_BK.sum(1)
            optimiser.zero_grad()
            loss_B.mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            step += 1
            progress(step / (EPOCHS * batches))
    return model.eval()
