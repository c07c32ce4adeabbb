"""The stage client: deadlines, slots, abandoned calls and the reasons they give."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import uvloop

from deployments.errors import DeadlineExceeded, StageFailed, VersionMismatch
from deployments.messages import Batch, ScoreBatch
from deployments.pipeline.stage_client import StageClient, local, run_before

BATCH = ScoreBatch(model_version="v", scores_BK=np.zeros((1, 1), np.float32))


class Echo:
    """A stage that waits for its gate."""

    model_version = "v"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = 0

    def __call__(self, batch: Batch) -> Batch:
        self.started += 1
        self.gate.wait(5)
        return batch


def soon(seconds: float = 2.0) -> float:
    return time.time() + seconds


async def test_a_call_gives_the_stages_message() -> None:
    stage = Echo()
    stage.gate.set()
    assert await StageClient("echo", local(stage, 1), 1).call(soon(), BATCH) is BATCH


async def test_work_whose_deadline_has_passed_is_not_started() -> None:
    stage = Echo()
    with pytest.raises(StageFailed, match="deadline"):
        await StageClient("echo", local(stage, 1), 1).call(soon(-1), BATCH)
    with pytest.raises(DeadlineExceeded, match="was not started"):
        run_before(soon(-1), stage, (BATCH,))
    assert stage.started == 0


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_an_event_loop_that_was_busy_takes_what_came_in_time(run: Callable[[Any], None]) -> None:
    async def busy() -> None:
        stage = Echo()
        stage.gate.set()
        call = asyncio.ensure_future(StageClient("echo", local(stage, 1), 1).call(soon(0.5), BATCH))
        await asyncio.sleep(0.05)  # it is started
        time.sleep(0.8)  # noqa: ASYNC251 - it is busy
        assert await call is BATCH

    run(busy())


async def test_a_call_is_given_up_at_its_deadline_and_holds_its_slot_until_it_returns() -> None:
    stage = Echo()
    client = StageClient("echo", local(stage, 1), 1)
    with pytest.raises(StageFailed) as late:
        await client.call(soon(0.05), BATCH)
    assert late.value.reason == "timeout"

    with pytest.raises(StageFailed, match="every slot is held by an abandoned call") as busy:
        await client.call(soon(5), BATCH)
    assert busy.value.reason == "busy"

    stage.gate.set()
    while True:
        try:
            assert await client.call(soon(), BATCH) is BATCH
            break
        except StageFailed:
            await asyncio.sleep(0.01)
    assert stage.started == 2


async def test_a_caller_waits_for_a_slot_held_by_a_call_still_in_time() -> None:
    stage = Echo()
    client = StageClient("echo", local(stage, 1), 1)
    first = asyncio.ensure_future(client.call(soon(5), BATCH))
    await asyncio.sleep(0.02)
    with pytest.raises(StageFailed) as busy:
        await client.call(soon(0.05), BATCH)
    assert busy.value.reason == "busy"
    second = asyncio.ensure_future(client.call(soon(5), BATCH))
    stage.gate.set()
    assert await first is BATCH
    assert await second is BATCH


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (DeadlineExceeded("late"), "timeout"),
        (VersionMismatch(["a", "b"]), "version"),
        (StageFailed("echo", "lost", "gone"), "lost"),
        (ZeroDivisionError("a bug"), "error"),
    ],
)
async def test_whatever_a_stage_raises_becomes_stage_failed_with_a_reason(raised: Exception, reason: str) -> None:
    def failing(_: Batch) -> Batch:
        raise raised

    with pytest.raises(StageFailed) as failure:
        await StageClient("echo", local(failing, 1), 1).call(soon(), BATCH)
    assert failure.value.reason == reason
