"""The reference for drift: the real stages run over the users of the training data, as a first day would ask them.

What training can't know is assumed: NEW_USERS of the requests come from unknown users, all ask for ANSWERS items, none
filters or excludes. `python -m graphs reference` replaces it by a window of live traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from time import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import DataError
from deployments.messages import HistoryBatch, Ints, ProfileBatch
from deployments.models.backends.parity_gate import PLAIN
from deployments.models.features.user_features import UserFeatures
from deployments.pipeline.request import Query, request_batch
from deployments.stages.candidates import CandidateGenerator
from deployments.stages.profile import Profiles
from deployments.stages.ranking import Ranker
from deployments.stages.scoring import Scorer
from deployments.telemetry.answered_batch import NO_FALLBACK, AnsweredBatch
from deployments.telemetry.drift_signals import DriftSignals, principal_axes
from graphs.config import RecommenderArgs
from graphs.data.dataset import Dataset
from graphs.fit.ranker import history_rows
from monitoring.drift.histograms import Columns, concat
from monitoring.drift.reference import BASIS_FILE, REFERENCE_FILE, from_table, to_table

NEW_USERS, ANSWERS = 0.05, 10
MOST_USERS = 5000
"""Users measured, drawn evenly."""

FEWEST_LIVE = 200
"""Requests that a reference of live traffic takes."""

AXES = 4
"""Principal axes of the user vectors that are drift signals."""

FRESH_S = 86_400.0
"""How old the newest event may be for "hours since the last event" to mean the same in training and in serving."""

_STEP = 64


def write_reference(writer: ArtifactWriter, dataset: Dataset, config: RecommenderArgs, seed: int) -> None:
    """Measures the artifact as written so far and adds REFERENCE_FILE and BASIS_FILE to it."""
    artifact = writer.preview()
    funnel = OfflineFunnel(artifact, config)
    users = _users(dataset, np.random.default_rng(seed))
    vectors = [profiles.user_vector_BD[~profiles.cold_B] for profiles in funnel.profiles(dataset, users)]
    mean_D, axes_PD = principal_axes(np.concatenate(vectors), AXES)
    writer.tensors(BASIS_FILE, {"mean_D": mean_D, "axes_PD": axes_PD})
    rows = measure(funnel, DriftSignals(artifact, mean_D, axes_PD), dataset, users)
    last_s = float(dataset.interactions.timestamp_E.max())
    if time() - last_s > FRESH_S:
        numbers = {name: value for name, value in rows.numbers.items() if name != "input.hours_since_last_event"}
        rows = Columns(rows.weight_B, numbers, rows.labels)
    writer.table(REFERENCE_FILE, to_table(rows))


def measure(
    funnel: OfflineFunnel, signals: DriftSignals, dataset: Dataset, users: Ints, answers: int = ANSWERS
) -> Columns:
    """A row per user, as if all asked for `answers` items at the time of the newest event. `users` [U]: positions, -1 a
    new one."""
    now = float(dataset.interactions.timestamp_E.max())
    return concat([signals(batch) for batch in funnel.served(dataset, users, now, answers)])


def from_live(artifact: str, live: str, out: str) -> Artifact:
    """Writes `artifact` to `out`, with the rows of `live` (the drift actor's live.parquet) as its reference.

    The model is the same, its version is not: what it is held against is part of it.

    Raises:
        DataError: `live` holds no measured rows, or too few.
        ArtifactError: `artifact` can't be read, or has no reference to replace.
    """
    opened = Artifact.open(artifact)
    opened.path(BASIS_FILE)
    try:
        rows = from_table(pq.read_table(live))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{live}: {error}; name the live.parquet in the folder of drift reports") from None
    if len(rows) < FEWEST_LIVE:
        raise DataError(f"{live} has {len(rows)} requests; a reference takes {FEWEST_LIVE}, so wait for more traffic")
    with ArtifactWriter(out) as writer:
        writer.copy_from(opened)
        writer.table(REFERENCE_FILE, to_table(rows))
    return Artifact.open(out)


def _users(dataset: Dataset, rng: np.random.Generator) -> Ints:
    known = np.unique(dataset.interactions.user_E)
    known = known[np.sort(rng.permutation(len(known))[:MOST_USERS])]
    new = max(1, round(len(known) * NEW_USERS / (1 - NEW_USERS)))
    return np.concatenate([known, np.full(new, -1)]).astype(np.int32)


@dataclass
class OfflineFunnel:
    """The four stages of an artifact, as `config` serves them."""

    artifact: Artifact
    config: RecommenderArgs

    def __post_init__(self) -> None:
        stages = self.config.stages
        self._user_features = UserFeatures(self.artifact)
        self._profiles = Profiles(self.artifact, stages.profile.config)
        self._candidates = CandidateGenerator(self.artifact, stages.candidates.config)
        plain = {"backend": PLAIN[0], "precision": PLAIN[1]}  # the same bytes, whatever this machine can compile
        self._scorer = Scorer(self.artifact, stages.scoring.config.model_copy(update=plain))
        self._ranker = Ranker(self.artifact, stages.ranking.config)

    def profiles(self, dataset: Dataset, users: Ints) -> Iterator[ProfileBatch]:
        """The profiles of `users`, batch by batch."""
        for histories in self._histories(dataset, users):
            yield self._profiles(histories)

    def served(self, dataset: Dataset, users: Ints, now: float, answers: int) -> Iterator[AnsweredBatch]:
        """A recommendation for each of `users`, batch by batch."""
        for histories in self._histories(dataset, users):
            size = len(histories)
            requests = request_batch([Query(user_id="", n=answers, deadline=0.0)] * size, self.artifact.model_version)
            profiles = self._profiles(histories)
            candidates = self._candidates(requests, profiles)
            scores = self._scorer(profiles, candidates)
            yield AnsweredBatch(
                requests=requests,
                profiles=profiles,
                candidates=candidates,
                scores=scores,
                ranked=self._ranker(requests, candidates, scores),
                asked_B=np.full(size, now),
                latest_B=histories.last_event_times(),
                unknown_B=np.zeros(size, np.float32),
                degraded=[NO_FALLBACK] * size,
            )

    def _histories(self, dataset: Dataset, users: Ints) -> Iterator[HistoryBatch]:
        """What the store would give: each user's last `history_limit` events."""
        events = dataset.interactions
        for start in range(0, len(users), _STEP):
            some = users[start : start + _STEP]
            begins = np.searchsorted(events.user_E, some, side="left")
            ends = np.where(some >= 0, np.searchsorted(events.user_E, some, side="right"), begins)
            begins = np.maximum(begins, ends - self.config.store.history_limit)
            features_BF = self._user_features([dataset.users[user] if user >= 0 else "" for user in some])
            yield history_rows(events, begins.tolist(), ends.tolist(), features_BF, self.artifact.model_version)
