"""Out of GPU memory: the batch is computed in chunks, the limit is lowered, and every row has its answer.

There is no GPU here: a stage raises torch's own error above so many rows. Not run on a GPU.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deployments.artifact.reader import Artifact
from deployments.errors import ConfigError
from deployments.messages import Batch, CandidateBatch, ProfileBatch, ScoreBatch
from deployments.pipeline.call_batcher import CallBatcher
from deployments.replicas import stage_replica
from deployments.replicas.gpu_share import CONTEXT_BYTES, memory_cap, sharing, take_share
from deployments.stages.candidates import CandidateConfig, CandidateGenerator
from deployments.stages.oom_guard import OomGuard
from deployments.stages.profile import ProfileConfig, Profiles
from deployments.stages.ranking import Ranker, RankerConfig
from deployments.stages.scoring import Scorer, ScorerConfig
from deployments.telemetry.durable_aggregator import MetricsConfig
from monitoring.logs.context import BatchLogContext
from monitoring.logs.setup import LogConfig
from tests.deployments.stages.test_model_stages import histories, requests


class SmallDevice:
    """A stage whose device fits `capacity` rows of all running calls; `calls`: the rows of each call."""

    def __init__(self, stage: Any, capacity: int) -> None:
        self.stage, self.capacity, self.calls = stage, capacity, list[int]()
        self._held, self._lock = 0, threading.Lock()

    def __call__(self, *batches: Batch) -> Batch:
        rows = len(batches[0])
        with self._lock:
            self.calls.append(rows)
            if self._held + rows > self.capacity:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            self._held += rows
        try:
            answer: Batch = self.stage(*batches)
            return answer
        finally:
            with self._lock:
                self._held -= rows


def double(scores: ScoreBatch) -> ScoreBatch:
    time.sleep(0.002)
    return ScoreBatch(scores.model_version, scores.scores_BK * 2)


def rows(n: int) -> ScoreBatch:
    return ScoreBatch("v", np.arange(3 * n, dtype=np.float32).reshape(n, 3))


@pytest.mark.parametrize("n", [1, 2, 7, 64, 257])
@pytest.mark.parametrize("capacity", [1, 3, 10, 1000])
def test_a_batch_in_chunks_has_the_answer_of_the_whole_batch(n: int, capacity: int) -> None:
    answer = OomGuard(256).guarded(SmallDevice(double, capacity))(rows(n))
    np.testing.assert_array_equal(answer.scores_BK, rows(n).scores_BK * 2)  # type: ignore[attr-defined]


def test_a_size_that_did_not_fit_is_not_tried_again() -> None:
    limit, stage = OomGuard(256), SmallDevice(double, 10)
    guarded = limit.guarded(stage)
    guarded(rows(64))
    assert limit.rows == 8
    stage.calls.clear()
    guarded(rows(64))
    assert stage.calls == [8] * 8


def test_a_batch_over_the_limit_that_fits_stays_whole() -> None:
    stage = SmallDevice(double, 1000)
    OomGuard(16).guarded(stage)(rows(64))
    assert stage.calls == [64]


def test_the_caller_gets_the_error_if_not_even_one_row_fits() -> None:
    stage = SmallDevice(double, 0)
    with pytest.raises(torch.OutOfMemoryError):
        OomGuard(256).guarded(stage)(rows(4))
    assert stage.calls == [4, 2, 1, 1], "a single row is tried twice"


def test_another_error_does_not_lower_the_limit() -> None:
    def broken(scores: ScoreBatch) -> ScoreBatch:
        raise RuntimeError("shapes do not match")

    limit = OomGuard(256)
    with pytest.raises(RuntimeError, match="shapes"):
        limit.guarded(broken)(rows(8))
    assert limit.rows == 256


def test_concurrent_calls_that_run_out_of_memory_are_all_answered() -> None:
    limit, stage = OomGuard(64), SmallDevice(double, 40)
    guarded = limit.guarded(stage)
    with ThreadPoolExecutor(2) as pool:
        for answer in pool.map(guarded, [rows(32)] * 20):
            np.testing.assert_array_equal(answer.scores_BK, rows(32).scores_BK * 2)  # type: ignore[attr-defined]
    assert limit.rows >= 8, "a small batch beside a large one says little of what fits"


async def test_joined_calls_of_several_callers_are_each_answered() -> None:
    call_batcher = CallBatcher(ThreadPoolExecutor(1), 1, 256)
    guarded = OomGuard(256).guarded(SmallDevice(double, 5))
    batches = [rows(n) for n in (3, 11, 1, 30)]
    answers = await asyncio.gather(*(call_batcher.call(guarded, time.time() + 10, (batch,)) for batch in batches))
    for batch, answer in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(answer.scores_BK, batch.scores_BK * 2)  # type: ignore[attr-defined]


def test_every_stage_gives_the_same_answer_in_chunks(artifact: Artifact) -> None:
    profiles_stage = Profiles(artifact, ProfileConfig())
    generator = CandidateGenerator(artifact, CandidateConfig(n_candidates=60))
    scorer, ranker = Scorer(artifact, ScorerConfig()), Ranker(artifact, RankerConfig())
    asked = requests(artifact.model_version, 14)
    profiles: ProfileBatch = profiles_stage(histories(artifact.model_version, 14))
    candidates = generator(asked, profiles)
    scores = scorer(profiles, candidates)
    calls: list[tuple[Any, tuple[Batch, ...], Batch]] = [
        (profiles_stage, (histories(artifact.model_version, 14),), profiles),
        (generator, (asked, profiles), candidates),
        (scorer, (profiles, candidates), scores),
        (ranker, (asked, candidates, scores), ranker(asked, candidates, scores)),
    ]
    for stage, batches, whole in calls:
        small = SmallDevice(stage, 3)
        parts = OomGuard(256).guarded(small)(*batches)
        assert max(small.calls) == 14
        assert len(small.calls) > 4
        for name, _ in whole._columns():
            left, right = getattr(parts, name), getattr(whole, name)
            assert left.shape == right.shape, name
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4, err_msg=name)


class CrampedScorer(Scorer):
    """The Scorer on a device that capacity three rows."""

    def __call__(self, profiles: ProfileBatch, candidates: CandidateBatch) -> ScoreBatch:
        if len(profiles) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().__call__(profiles, candidates)


class Shell(stage_replica.StageReplica):
    """Ends without Serve, which would await the original."""

    def __del__(self) -> None:  # type: ignore[override]
        pass


async def test_a_replica_whose_scorer_runs_out_of_memory_answers_every_row_and_reports_the_batches_it_can_take(
    artifact: Artifact, artifact_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_replica, "bound_gpu", lambda: None)  # these ask Ray
    monkeypatch.setattr(stage_replica, "assigned", lambda _: 0.5)
    monkeypatch.setattr(stage_replica, "replica_logs", lambda _: None)
    monkeypatch.setattr(
        stage_replica, "set_threads", lambda _: None
    )  # for the whole process: sums would come out otherwise
    context = SimpleNamespace(replica_tag="one", deployment="Scorer")
    monkeypatch.setattr(stage_replica.serve, "get_replica_context", lambda: context)
    profiles = Profiles(artifact, ProfileConfig())(histories(artifact.model_version, 14))
    candidates = CandidateGenerator(artifact, CandidateConfig(n_candidates=60))(
        requests(artifact.model_version, 14), profiles
    )
    factory = stage_replica.StageFactory(CrampedScorer, ScorerConfig(), LogConfig())
    shell = Shell(factory, artifact_path, "", slots=1, max_rows=256, threads=1, metrics=MetricsConfig(), hub=None)
    deadline = time.time() + 30
    calls = (shell.run("__call__", deadline, BatchLogContext("b1"), profiles, candidates) for _ in range(5))
    answers = await asyncio.gather(*calls)
    whole = Scorer(artifact, ScorerConfig())(profiles, candidates)
    for answer in answers:
        np.testing.assert_allclose(answer.scores_BK, whole.scores_BK, rtol=1e-4, atol=1e-4)  # type: ignore[attr-defined]
    stats = shell.record_autoscaling_stats()
    assert (stats["arrivals"], stats["completions"], stats["max_batch"]) == (70, 70, 2)
    assert stats["num_cpus"] == 0.5


def test_the_memory_cap_leaves_room_for_what_torch_does_not_count() -> None:
    total = 16 << 30
    assert 4 * (memory_cap(0.25, total) * total + CONTEXT_BYTES) == pytest.approx(total)
    assert memory_cap(0.01, total) == 0


def test_mps_and_mig_are_distinguished(tmp_path: Path) -> None:
    (tmp_path / "control").touch()
    mps = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    nowhere = {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "none")}
    assert str(sharing(nowhere)) == "neither MPS nor MIG"
    assert str(sharing(mps)) == "MPS, threads not limited"
    assert str(sharing(mps | {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25"})) == "MPS with 25 % of the threads"
    assert str(sharing(nowhere | {"CUDA_VISIBLE_DEVICES": "MIG-4f2e"})) == "MIG"
    assert str(sharing(nowhere, "NVIDIA A100-SXM4-40GB MIG 1g.5gb")) == "MIG"


def test_a_replica_without_a_share_sees_no_gpu_and_one_on_a_logical_gpu_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "GPU 1: 0.25 given by Ray, but torch sees no CUDA device" in take_share(0.25)
    take_share(0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


class Card:
    """What torch would say of a GPU with 16 GiB, and what it is told."""

    total_memory = 16 << 30

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.capped: list[tuple[float, int]] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: self)
        monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: self.capped.append(given))


def test_a_fraction_caps_torch_s_memory_and_warns_where_nothing_keeps_replicas_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = Card(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    with caplog.at_level("INFO", "ray.serve"):
        line = take_share(0.25)
        assert "neither MPS nor MIG, torch's memory capped at 3.50 GiB" in line
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        caplog.clear()
        (tmp_path / "control").touch()
        take_share(0.5)
        take_share(1.0)
        assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]
    assert card.capped == [(0.25 - 0.5 / 16, 0), (0.5 - 0.5 / 16, 0)], "a whole GPU is not capped"
    with pytest.raises(ConfigError, match=r"num_gpus 0.01 is less than .* raise it"):
        take_share(0.01)
