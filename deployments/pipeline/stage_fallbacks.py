"""Where a late or failed stage is replaced: a batch gets the next best message of the stages that gave none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from deployments.messages import CandidateBatch, ProfileBatch, RequestBatch
from deployments.pipeline.batch import BatchState
from deployments.pipeline.time_budget import STAGES
from deployments.stages import fallbacks


class Popular(Protocol):
    """Candidates without any model; `deployments.stages.fallbacks.PopularItems`."""

    model_version: str

    def __call__(self, requests: RequestBatch, profiles: ProfileBatch) -> CandidateBatch: ...


class StageFallbacks:
    """profile → cold-start profile; candidates → popular items; scoring → retrieval scores; ranking → score order."""

    def __init__(self, popular: Popular, cold_profiles: Callable[[RequestBatch], ProfileBatch]) -> None:
        self._popular, self._cold_profiles = popular, cold_profiles

    @property
    def model_version(self) -> str:
        """The version that the fallbacks' messages carry."""
        return self._popular.model_version

    def replace(self, batch: BatchState, stage: str) -> None:
        """Fills in the message that `stage` should have given. The stages before it have theirs."""
        match stage:
            case "profile":
                batch.profiles = self._cold_profiles(batch.requests)
            case "candidates":
                assert batch.profiles is not None
                batch.candidates = self._popular(batch.requests, batch.profiles)
            case "scoring":
                assert batch.candidates is not None
                batch.scores = fallbacks.retrieval_scores(batch.candidates)
                if batch.known:
                    batch.scores = batch.known.fill_missing(batch.scores)
            case "ranking":
                assert batch.candidates is not None
                assert batch.scores is not None
                batch.ranked = fallbacks.score_order(batch.requests, batch.candidates, batch.scores)

    def complete(self, batch: BatchState) -> None:
        """Fills in the messages of all stages that have given none yet."""
        given = {
            "profile": batch.profiles,
            "candidates": batch.candidates,
            "scoring": batch.scores,
            "ranking": batch.ranked,
        }
        for stage in STAGES:
            if given[stage] is None:
                self.replace(batch, stage)
