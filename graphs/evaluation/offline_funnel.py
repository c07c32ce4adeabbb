"""The funnel without a server: the stages of an artifact, called batch by batch in this process.

    histories → profile → candidates → scoring → ranking → answers

Training, evaluation, packaging, the drift reference and the benchmarks all run this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from deployments.artifact.reader import Artifact
from deployments.messages import (
    PAD,
    CandidateBatch,
    HistoryBatch,
    ProfileBatch,
    RankedBatch,
    RequestBatch,
    ScoreBatch,
    Shorts,
    Times,
)
from deployments.models.backends.parity_gate import PLAIN
from deployments.models.features.schema import Schema
from deployments.models.features.user_features import UserFeatures
from deployments.pipeline.request import Query, request_batch
from deployments.stages.candidates import CandidateGenerator
from deployments.stages.profile import Profiles
from deployments.stages.ranking import Ranker
from deployments.stages.scoring import Scorer
from deployments.store.event_types import UNTYPED
from graphs.config import Stages
from graphs.data.dataset import Interactions
from graphs.data.histories import history_batch

BATCH = 64
"""Requests that the offline flows put into one batch."""


class Retrieved(NamedTuple):
    """What the profile and the candidate stage gave for B requests."""

    requests: RequestBatch
    profiles: ProfileBatch
    candidates: CandidateBatch


class Answered(NamedTuple):
    """What all four stages gave for B requests."""

    requests: RequestBatch
    profiles: ProfileBatch
    candidates: CandidateBatch
    scores: ScoreBatch
    ranked: RankedBatch


def with_plain_scoring(stages: Stages) -> Stages:
    """`stages`, with the model in eager fp32: the same bytes on every machine, and no parity gate to pass."""
    backend, precision = PLAIN
    config = stages.scoring.config.model_copy(update={"backend": backend, "precision": precision})
    return stages.model_copy(update={"scoring": stages.scoring.model_copy(update={"config": config})})


class OfflineFunnel:
    """The four stages of `artifact` as `stages` configures them.

    Each stage is loaded at its first use, so `retrieve` works before the artifact has a ranking model. `event_types`:
    those of the data that the histories are made of (`Dataset.event_types`).
    """

    def __init__(self, artifact: Artifact, stages: Stages, event_types: Sequence[str] = ()) -> None:
        self.artifact = artifact
        known = Schema.load(artifact).event_types
        self._position_T: Shorts | None = None
        if known is not None:
            self._position_T = np.array(
                [known.index(name) if name in known else PAD for name in event_types or [UNTYPED]], np.int16
            )
        self._config = stages
        self._user_features = UserFeatures(artifact)

    @cached_property
    def profile(self) -> Profiles:
        """The profile stage."""
        return Profiles(self.artifact, self._config.profile.config)

    @cached_property
    def candidates(self) -> CandidateGenerator:
        """The candidate stage."""
        return CandidateGenerator(self.artifact, self._config.candidates.config)

    @cached_property
    def scoring(self) -> Scorer:
        """The scoring stage."""
        return Scorer(self.artifact, self._config.scoring.config)

    @cached_property
    def ranking(self) -> Ranker:
        """The ranking stage."""
        return Ranker(self.artifact, self._config.ranking.config)

    def histories(
        self, events: Interactions, starts: Sequence[int], ends: Sequence[int], now_B: Times, users: Sequence[str]
    ) -> HistoryBatch:
        """B histories: the slices `starts[b]:ends[b]` of `events`. `now_B`: Unix seconds of the requests; `users`:
        their ids, for the user features."""
        features_BF, version = self._user_features(users), self.artifact.model_version
        return history_batch(events, starts, ends, now_B, features_BF, version, self._position_T)

    def requests(self, count: int, n: int) -> RequestBatch:
        """`count` requests for `n` items each, without filters or exclusions."""
        return request_batch([Query(user_id="", n=n, deadline=0.0)] * count, self.artifact.model_version)

    def retrieve(self, histories: HistoryBatch, n: int) -> Retrieved:
        """The candidates for `n` items per request."""
        requests = self.requests(len(histories), n)
        profiles = self.profile(histories)
        return Retrieved(requests, profiles, self.candidates(requests, profiles))

    def answer(self, histories: HistoryBatch, n: int) -> Answered:
        """The `n` best items per request."""
        requests, profiles, candidates = self.retrieve(histories, n)
        scores = self.scoring(profiles, candidates)
        return Answered(requests, profiles, candidates, scores, self.ranking(requests, candidates, scores))
