"""The reference for drift: the stages run over the users of the training data, and every answer is measured.

Training can't see live requests, so it assumes: NEW_USERS of the requests come from unknown users, all ask for ANSWERS
items, none has filters or exclusions. `python -m graphs reference` replaces this reference by live traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import time

import numpy as np

from deployments.artifact.writer import ArtifactWriter
from deployments.messages import HistoryBatch, Ints
from deployments.telemetry.answered_batch import NO_FALLBACK, AnsweredBatch
from deployments.telemetry.drift_signals import DriftSignals, principal_axes
from graphs.config import RecommenderArgs
from graphs.data.dataset import Dataset
from graphs.evaluation.offline_funnel import BATCH, OfflineFunnel, with_plain_scoring
from monitoring.drift.histograms import Columns, concat
from monitoring.drift.reference import BASIS_FILE, REFERENCE_FILE, to_table

NEW_USERS, ANSWERS = 0.05, 10
MAX_USERS = 5000
"""Users measured, drawn at random."""

AXES = 4
"""Main axes of the user vectors that are watched."""

MAX_AGE_S = 86_400.0
"""Age of the newest event up to which "hours since the last event" means the same in training and in serving."""


def write_reference(writer: ArtifactWriter, dataset: Dataset, config: RecommenderArgs, seed: int) -> None:
    """Measures the artifact as written so far and adds BASIS_FILE and REFERENCE_FILE to it."""
    artifact = writer.preview()
    funnel = OfflineFunnel(artifact, with_plain_scoring(config.stages), dataset.event_types)
    limit = config.store.history_limit
    users = _users(dataset, np.random.default_rng(seed))
    vectors = []
    for histories in _histories(funnel, dataset, users, limit):
        profiles = funnel.profile(histories)
        vectors.append(profiles.user_vector_BD[~profiles.cold_B])
    mean_D, axes_PD = principal_axes(np.concatenate(vectors), AXES)
    writer.tensors(BASIS_FILE, {"mean_D": mean_D, "axes_PD": axes_PD})
    rows = measure(funnel, DriftSignals(artifact, mean_D, axes_PD), dataset, users, limit)
    last_s = float(dataset.interactions.timestamp_E.max())
    if time() - last_s > MAX_AGE_S:
        numbers = {name: value for name, value in rows.numbers.items() if name != "input.hours_since_last_event"}
        rows = Columns(rows.weight_B, numbers, rows.labels)
    writer.table(REFERENCE_FILE, to_table(rows))


def measure(
    funnel: OfflineFunnel,
    signals: DriftSignals,
    dataset: Dataset,
    users: Ints,
    history_limit: int,
    answers: int = ANSWERS,
) -> Columns:
    """A row per user, as if all asked for `answers` items at the time of the newest event.

    `users` [U]: positions in `dataset.users`, -1 for a new user; `history_limit`: events of a history, the newest.
    """
    now = float(dataset.interactions.timestamp_E.max())
    rows = []
    for histories in _histories(funnel, dataset, users, history_limit):
        size = len(histories)
        answered = funnel.answer(histories, answers)
        served = AnsweredBatch(
            **answered._asdict(),
            asked_B=np.full(size, now),
            latest_B=histories.last_event_times(),
            unknown_B=np.zeros(size, np.float32),
            degraded=[NO_FALLBACK] * size,
        )
        rows.append(signals(served))
    return concat(rows)


def _users(dataset: Dataset, rng: np.random.Generator) -> Ints:
    known = np.unique(dataset.interactions.user_E)
    known = known[np.sort(rng.permutation(len(known))[:MAX_USERS])]
    new = max(1, round(len(known) * NEW_USERS / (1 - NEW_USERS)))
    return np.concatenate([known, np.full(new, -1)]).astype(np.int32)


def _histories(funnel: OfflineFunnel, dataset: Dataset, users: Ints, limit: int) -> Iterator[HistoryBatch]:
    """The last `limit` events of each user, as the store would give them, batch by batch."""
    events, now = dataset.interactions, float(dataset.interactions.timestamp_E.max())
    for start in range(0, len(users), BATCH):
        some = users[start : start + BATCH]
        begins = np.searchsorted(events.user_E, some, side="left")
        ends = np.where(some >= 0, np.searchsorted(events.user_E, some, side="right"), begins)
        begins = np.maximum(begins, ends - limit)
        ids = [dataset.users[user] if user >= 0 else "" for user in some]
        yield funnel.histories(events, begins.tolist(), ends.tolist(), np.full(len(some), now), ids)
