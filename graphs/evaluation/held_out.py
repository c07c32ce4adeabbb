"""Requests of test users, with their candidates and the items that came true: the parity gate compares scores on them.

A model that was refitted on all events has seen what came true. That matters to its quality, not to the comparison of
two backends with the same weights.

Shapes: B requests, K candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from deployments.artifact.reader import Artifact
from deployments.messages import Batch, Bools, CandidateBatch, Floats, HistoryBatch, Ints, ProfileBatch
from deployments.models.backends.parity_gate import PLAIN
from deployments.models.features.ranking_features import RankingFeatures
from deployments.stages import warm_up
from deployments.stages.scoring import Scorer, ScorerConfig, load_ranker
from graphs.config import Stages
from graphs.data.dataset import Dataset, Interactions
from graphs.data.splits import Split
from graphs.evaluation.offline_funnel import BATCH, OfflineFunnel, Retrieved

MAX_REQUESTS = 1000
TOP = 10
"""Items per answer."""


class HeldOutBatch(NamedTuple):
    """Requests that the ranking model scores, and what a good answer is."""

    profiles: ProfileBatch
    candidates: CandidateBatch
    relevant_BK: Bools
    """Candidates that came true."""
    n_relevant_B: Ints
    """Items that came true, candidates or not."""
    trained_scores_BK: Floats
    """The scores of `TrainedRanker`."""


class HeldOutRequests(NamedTuple):
    """All batches, and one message of each kind for the warm-up (deployments/stages/warm_up.py)."""

    batches: list[HeldOutBatch]
    recorded: list[Batch]


class TrainedRanker:
    """The ranking model exactly as it was trained, over the features of every candidate. Every backend and precision is
    compared with it."""

    def __init__(self, artifact: Artifact) -> None:
        self.features, self._model = RankingFeatures(artifact), load_ranker(artifact)

    def __call__(self, profiles: ProfileBatch, candidates: CandidateBatch) -> Floats:
        """Scores [B, K], -inf on padding."""
        with torch.inference_mode():
            scores_BK = self._model(torch.from_numpy(self.features(profiles, candidates))).numpy()
        return np.where(candidates.mask_BK, scores_BK, np.float32(-np.inf))


def hold_out(artifact: Artifact, dataset: Dataset, stages: Stages) -> HeldOutRequests:
    """Up to MAX_REQUESTS requests: one per test user of the artifact's split at their first test event, then one at the
    middle of the test events.

    A request at the middle has the first half of the user's test events in its history; the second half is relevant.
    """
    parts = Split.of(artifact.manifest.settings)(dataset.interactions)
    history, test = parts.history, parts.test
    funnel, trained = OfflineFunnel(artifact, stages, dataset.event_types), TrainedRanker(artifact)
    cuts = list(_cuts(test))[:MAX_REQUESTS]
    held_out = HeldOutRequests([], [])
    for start in range(0, len(cuts), BATCH):
        part = cuts[start : start + BATCH]
        histories = _histories(funnel, dataset, history, test, part)
        retrieved = funnel.retrieve(histories, TOP)
        _, profiles, candidates = retrieved
        came_true = [
            np.isin(item_K, test.item_E[cut.at : cut.end])
            for item_K, cut in zip(candidates.item_ids_BK, part, strict=True)
        ]
        held_out.batches.append(
            HeldOutBatch(
                profiles=profiles,
                candidates=candidates,
                relevant_BK=np.stack(came_true) & candidates.mask_BK,
                n_relevant_B=np.array([cut.end - cut.at for cut in part], np.int32),
                trained_scores_BK=trained(profiles, candidates),
            )
        )
        if not held_out.recorded:
            held_out.recorded.extend(recorded_messages(artifact, histories, retrieved))
    return held_out


def recorded_messages(artifact: Artifact, histories: HistoryBatch, retrieved: Retrieved) -> list[Batch]:
    """One message of each kind with the first requests, for the warm-up."""
    plain = Scorer(artifact, ScorerConfig(backend=PLAIN[0], precision=PLAIN[1]))
    messages: list[Batch] = [histories, *retrieved, plain(retrieved.profiles, retrieved.candidates)]
    return [message.take(slice(warm_up.RECORDED_ROWS)) for message in messages]


class _Cut(NamedTuple):
    """A request in the test events of a user: `start:at` belongs to the history, `at:end` is relevant."""

    user: int
    start: int
    at: int
    end: int


def _cuts(test: Interactions) -> Iterator[_Cut]:
    users = np.unique(test.user_E)
    starts, ends = np.searchsorted(test.user_E, users), np.searchsorted(test.user_E, users, side="right")
    bounds = list(zip(users.tolist(), starts.tolist(), ends.tolist(), strict=True))
    for user, start, end in bounds:
        yield _Cut(user, start, start, end)
    for user, start, end in bounds:
        if (middle := (start + end) // 2) > start:
            yield _Cut(user, start, middle, end)


def _histories(
    funnel: OfflineFunnel, dataset: Dataset, history: Interactions, test: Interactions, cuts: list[_Cut]
) -> HistoryBatch:
    """The history of each user, then the test events before the cut."""
    parts: list[tuple[Interactions, slice]] = []
    starts, ends = [], []
    end = 0
    for cut in cuts:
        own = slice(*np.searchsorted(history.user_E, [cut.user, cut.user + 1]))
        parts += [(history, own), (test, slice(cut.start, cut.at))]
        starts.append(end)
        end += own.stop - own.start + cut.at - cut.start
        ends.append(end)
    joined = Interactions.concat([events.take(rows) for events, rows in parts])
    now_B = test.timestamp_E[[cut.at for cut in cuts]]
    return funnel.histories(joined, starts, ends, now_B, [dataset.users[cut.user] for cut in cuts])
