"""Calls that wait together are one call, and nobody can tell but by the time."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from deployments.errors import DeadlineExceeded
from deployments.messages import Batch, ScoreBatch
from deployments.pipeline.call_batcher import CallBatcher
from monitoring.logs.context import BatchLogContext, log_context


def batch(*values: float, version: str = "v") -> ScoreBatch:
    """A row per value."""
    return ScoreBatch(model_version=version, scores_BK=np.array(values, np.float32)[:, None])


class Doubling:
    """Doubles; waits for its gate; refuses negative numbers. `calls`: the rows of each call."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls: list[int] = []

    def __call__(self, scores: ScoreBatch) -> Batch:
        self.gate.wait(5)
        self.calls.append(len(scores))
        if (scores.scores_BK < 0).any():
            raise ValueError("negative")
        return ScoreBatch(scores.model_version, scores.scores_BK * 2)


def soon() -> float:
    return time.time() + 5


async def ask_while_busy(
    stage: Doubling, *batches: ScoreBatch, max_rows: int = 100, late: tuple[int, ...] = ()
) -> list[Batch | BaseException]:
    """The answers to `batches`, which all come while a first call keeps the stage busy; `late`: those of no time."""
    call_batcher = CallBatcher(ThreadPoolExecutor(1), 1, max_rows)
    first = asyncio.ensure_future(call_batcher.call(stage, soon(), (batch(0),)))
    await asyncio.sleep(0.05)
    deadlines = [time.time() + (0.01 if i in late else 5) for i in range(len(batches))]
    calls = [asyncio.ensure_future(call_batcher.call(stage, d, (b,))) for d, b in zip(deadlines, batches, strict=True)]
    await asyncio.sleep(0.05)
    stage.gate.set()
    await first
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_calls_that_wait_are_computed_together_and_each_gets_its_own_rows() -> None:
    stage = Doubling()
    answers = await ask_while_busy(stage, batch(1, 2), batch(3), batch(4, 5, 6))
    assert stage.calls == [1, 6]
    assert [a.scores_BK[:, 0].tolist() for a in answers] == [[2, 4], [6], [8, 10, 12]]  # type: ignore[union-attr]


async def test_what_is_logged_meanwhile_carries_the_ids_of_all_that_is_computed() -> None:
    gate, seen = threading.Event(), []

    def logging(scores: ScoreBatch) -> Batch:
        gate.wait(5)
        seen.append(dict(log_context.get().fields()))  # type: ignore[union-attr]
        return scores

    call_batcher, calls = CallBatcher(ThreadPoolExecutor(1), 1, 100), []
    for n in range(3):
        log_context.set(BatchLogContext(f"b{n}", [(f"r{n}", f"t{n}")]))
        calls.append(asyncio.ensure_future(call_batcher.call(logging, soon(), (batch(n),))))
        await asyncio.sleep(0.02)
    gate.set()
    await asyncio.gather(*calls)
    assert seen == [
        {"rayfunnel.batch.id": "b0", "http.request.id": "r0", "trace.id": "t0"},
        {"rayfunnel.batch.id": ["b1", "b2"], "http.request.id": ["r1", "r2"], "trace.id": ["t1", "t2"]},
    ]


async def test_no_more_rows_than_max_rows_go_together() -> None:
    stage = Doubling()
    answers = await ask_while_busy(stage, batch(1, 2), batch(3), batch(4, 5, 6, 7), batch(8), max_rows=3)
    assert stage.calls == [1, 3, 4, 1], "a batch that is over the limit by itself goes alone"
    assert answers[2].scores_BK[:, 0].tolist() == [8, 10, 12, 14]  # type: ignore[union-attr]


async def test_a_bad_batch_fails_itself_alone() -> None:
    answers = await ask_while_busy(Doubling(), batch(1), batch(-1), batch(2), batch(3, version="other"))
    assert isinstance(answers[1], ValueError)
    assert [a.scores_BK[0, 0] for a in (answers[0], answers[2], answers[3])] == [2, 4, 6]  # type: ignore[union-attr]


async def test_what_waited_past_its_deadline_is_not_computed() -> None:
    stage = Doubling()
    answers = await ask_while_busy(stage, batch(1), batch(2, 3), batch(4), late=(1,))
    assert isinstance(answers[1], DeadlineExceeded)
    assert stage.calls == [1, 2]


async def test_a_free_stage_is_not_waited_for() -> None:
    stage = Doubling()
    stage.gate.set()
    call_batcher = CallBatcher(ThreadPoolExecutor(2), 2, 100)
    for value in range(3):
        assert (await call_batcher.call(stage, soon(), (batch(value),))).scores_BK[0, 0] == 2 * value  # type: ignore[attr-defined]
    assert stage.calls == [1, 1, 1]


async def test_a_caller_that_has_gone_leaves_the_others_their_answers() -> None:
    stage = Doubling()
    call_batcher = CallBatcher(ThreadPoolExecutor(1), 1, 100)
    calls = [asyncio.ensure_future(call_batcher.call(stage, soon(), (batch(v),))) for v in range(4)]
    await asyncio.sleep(0.05)
    calls[2].cancel()
    stage.gate.set()
    kept = await asyncio.gather(calls[0], calls[1], calls[3])
    assert [a.scores_BK[0, 0] for a in kept] == [0, 2, 6]  # type: ignore[attr-defined]
    with pytest.raises(asyncio.CancelledError):
        await calls[2]


async def test_an_answer_is_as_wide_as_its_callers_own_batch() -> None:
    """The joined call is as wide as the widest; what comes back must fit what the caller holds."""
    stage = Doubling()
    narrow, wide = (ScoreBatch("v", np.ones((2, width), np.float32)) for width in (3, 7))
    answers = await ask_while_busy(stage, narrow, wide)
    assert stage.calls == [1, 4]
    assert [a.scores_BK.shape for a in answers] == [(2, 3), (2, 7)]  # type: ignore[union-attr]
