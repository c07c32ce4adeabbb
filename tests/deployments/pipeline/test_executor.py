"""Short calls are computed on the event loop, long ones and unknown ones on threads."""

from __future__ import annotations

import contextvars
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployments.pipeline import executor
from deployments.pipeline.executor import StageExecutor

lines = contextvars.ContextVar("lines", default="none")


def where(seconds: float = 0.0) -> str:
    time.sleep(seconds)
    return threading.current_thread().name


async def threads_of(runner: StageExecutor, calls: int) -> list[str]:
    return [await runner.run(where) for _ in range(calls)]


@pytest.fixture(autouse=True)
def generous_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a busy machine does not reach by itself."""
    monkeypatch.setattr(executor, "SHORT_S", 0.3)
    monkeypatch.setattr(executor, "BLOCKED_S", 10.0)


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "a thread")


HERE = threading.main_thread().name


async def test_the_first_calls_are_made_on_a_thread_and_short_ones_then_on_the_event_loop(
    pool: ThreadPoolExecutor,
) -> None:
    assert await threads_of(StageExecutor(pool), 8) == ["a thread_0"] * 5 + [HERE] * 3


async def test_a_long_call_sends_the_next_ones_to_threads_until_all_are_short_again(pool: ThreadPoolExecutor) -> None:
    runner = StageExecutor(pool)
    await threads_of(runner, 5)
    assert await runner.run(where, 0.4) == HERE
    assert await threads_of(runner, 6) == ["a thread_0"] * 5 + [HERE]


async def test_after_a_call_that_waited_for_something_none_is_made_on_the_event_loop(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "BLOCKED_S", 0.4)
    runner = StageExecutor(pool)
    await runner.run(where, 0.5)
    assert await threads_of(runner, 8) == ["a thread_0"] * 8
    monkeypatch.setattr(executor, "monotonic", lambda: time.monotonic() + 60)
    assert await threads_of(runner, 1) == [HERE]


async def test_what_computes_several_at_a_time_stays_on_threads(pool: ThreadPoolExecutor) -> None:
    assert await threads_of(StageExecutor(pool, on_loop=False), 8) == ["a thread_0"] * 8


async def test_calls_that_failed_say_nothing_about_how_long_the_work_takes(pool: ThreadPoolExecutor) -> None:
    def too_late() -> None:
        raise TimeoutError

    runner = StageExecutor(pool)
    await runner.run(where, 0.4)
    for _ in range(9):
        with pytest.raises(TimeoutError):
            await runner.run(too_late)
    assert await threads_of(runner, 6) == ["a thread_0"] * 5 + [HERE]


async def test_errors_and_context_are_the_callers_in_either_place(pool: ThreadPoolExecutor) -> None:
    def change() -> str:
        before = lines.get()
        lines.set("changed")
        return before

    def fail() -> None:
        raise KeyError("on purpose")

    runner = StageExecutor(pool)
    lines.set("of the caller")
    assert [await runner.run(change) for _ in range(7)] == ["of the caller"] * 7
    assert lines.get() == "of the caller"
    for _ in range(2):
        with pytest.raises(KeyError, match="on purpose"):
            await runner.run(fail)
    assert await threads_of(runner, 1) == [HERE]
