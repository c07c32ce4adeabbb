"""The warm-up of a stage with its recorded inputs."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from deployments.artifact.reader import Artifact
from deployments.messages import Batch, CandidateBatch, RankedBatch, RequestBatch, ScoreBatch
from deployments.replicas.stage_replica import StageFactory
from deployments.stages import warm_up
from deployments.stages.candidates import CandidateConfig, CandidateGenerator
from deployments.stages.profile import ProfileConfig, Profiles
from deployments.stages.ranking import Ranker, RankerConfig
from deployments.stages.scoring import Scorer, ScorerConfig
from monitoring.logs.setup import LogConfig


def test_every_stage_is_warmed_up_with_its_recorded_inputs(artifact: Artifact) -> None:
    calls: list[tuple[Batch, ...]] = []

    class Recorder:
        model_version = artifact.model_version

        def __call__(self, requests: RequestBatch, candidates: CandidateBatch, scores: ScoreBatch) -> RankedBatch:
            calls.append((requests, candidates, scores))
            return ranker(requests, candidates, scores)

    ranker = Ranker(artifact, RankerConfig())
    warm_up.warm_up(Recorder(), artifact)
    assert [len(batches[0]) for batches in calls] == list(warm_up.BATCH_SIZES)
    _, found, scored = calls[-1]
    assert isinstance(found, CandidateBatch)
    assert isinstance(scored, ScoreBatch)
    assert found.mask_BK.any(axis=1).all()
    assert (np.isneginf(scored.scores_BK) == ~found.mask_BK).all()
    assert found.sources == tuple(spec["name"] for spec in artifact.manifest.settings["sources"])


@pytest.mark.parametrize(
    ("stage", "config"),
    [(Profiles, ProfileConfig()), (CandidateGenerator, CandidateConfig(n_candidates=60)), (Scorer, ScorerConfig())],
)
def test_a_replicas_stage_is_warmed_up_when_it_is_built(
    artifact: Artifact, stage: Any, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    plain = stage.__call__

    @functools.wraps(plain)
    def counted(self: Any, *batches: Any) -> Any:
        rows.append(len(batches[0]))
        return plain(self, *batches)

    monkeypatch.setattr(stage, "__call__", counted)
    StageFactory(stage, config, LogConfig()).build(artifact)
    assert rows == list(warm_up.BATCH_SIZES)
