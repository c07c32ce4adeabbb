"""Natural batching: order, bounds, and that every request travels exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import Overloaded
from deployments.pipeline.batcher import LEAST_SPLIT, Batcher, BatcherConfig


class Request:
    def __init__(self, number: int) -> None:
        self.number = number
        self.done = False


class Worker:
    """Records batches; each takes as long as `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.running = self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, requests: Sequence[Request]) -> None:
        self.batches.append([r.number for r in requests])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await self.gate.wait()
        await asyncio.sleep(0)
        self.running -= 1


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def batcher_of(run: Callable[[Sequence[Any]], Awaitable[None]], config: BatcherConfig) -> Batcher[Any]:
    """As the pipeline makes one."""
    return Batcher(run, config.max_batch, config.in_flight, config.max_queue, config.linger_ms / 1e3)


async def test_a_lone_request_leaves_at_once() -> None:
    worker = Worker()
    batcher = batcher_of(worker, BatcherConfig())
    batcher.put(Request(1))
    await settle()
    assert worker.batches == [[1]]
    assert batcher.waiting == 0


async def test_requests_of_one_loop_turn_travel_together() -> None:
    worker = Worker()
    batcher = batcher_of(worker, BatcherConfig(max_batch=3, in_flight=4))
    for number in range(5):
        batcher.put(Request(number))
    await settle()
    assert worker.batches == [[0, 1, 2], [3, 4]]


async def test_free_slots_share_what_waits_but_not_in_small_batches() -> None:
    worker = Worker()
    batcher = batcher_of(worker, BatcherConfig(in_flight=2))
    for number in range(20):
        batcher.put(Request(number))
    await settle()
    assert [len(batch) for batch in worker.batches] == [10, 10]
    for number in range(LEAST_SPLIT):
        batcher.put(Request(number))
    await settle()
    assert [len(batch) for batch in worker.batches[2:]] == [LEAST_SPLIT]


async def test_requests_gather_while_all_slots_are_busy_and_leave_when_one_is_free() -> None:
    worker = Worker()
    worker.gate.clear()
    batcher = batcher_of(worker, BatcherConfig(in_flight=1))
    batcher.put(Request(0))
    await settle()
    for number in (1, 2, 3):
        batcher.put(Request(number))
        await settle()
    assert worker.batches == [[0]]
    worker.gate.set()
    await settle()
    assert worker.batches == [[0], [1, 2, 3]]


async def test_past_the_bound_a_request_is_refused_at_once_and_the_queue_is_untouched() -> None:
    worker = Worker()
    worker.gate.clear()
    batcher = batcher_of(worker, BatcherConfig(max_batch=1, in_flight=1, max_queue=2))
    batcher.put(Request(0))
    await settle()
    batcher.put(Request(1))
    batcher.put(Request(2))
    with pytest.raises(Overloaded, match="2 requests are waiting"):
        batcher.put(Request(3))
    worker.gate.set()
    await settle()
    assert worker.batches == [[0], [1], [2]]


async def test_answered_requests_make_room_and_do_not_travel() -> None:
    worker = Worker()
    worker.gate.clear()
    batcher = batcher_of(worker, BatcherConfig(max_batch=1, in_flight=1, max_queue=2))
    batcher.put(Request(0))
    await settle()
    given_up = Request(1)
    batcher.put(given_up)
    batcher.put(Request(2))
    given_up.done = True
    batcher.put(Request(3))
    worker.gate.set()
    await settle()
    assert worker.batches == [[0], [2], [3]]


async def test_a_batch_that_fails_gives_its_slot_back() -> None:
    seen: list[int] = []

    async def failing(requests: Sequence[Request]) -> None:
        seen.extend(r.number for r in requests)
        raise RuntimeError("a bug")

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    batcher = batcher_of(failing, BatcherConfig(in_flight=1))
    for number in range(3):
        batcher.put(Request(number))
        await settle()
    assert seen == [0, 1, 2]
    assert len(reported) == 3


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["put", "put", "put", "turn", "open", "close", "give up"]), max_size=80),
    max_batch=st.integers(1, 5),
    in_flight=st.integers(1, 4),
    max_queue=st.integers(1, 20),
)
def test_no_request_is_lost_or_travels_twice_and_order_is_kept(
    steps: list[str], max_batch: int, in_flight: int, max_queue: int
) -> None:
    async def scenario() -> None:
        worker = Worker()
        batcher = batcher_of(worker, BatcherConfig(max_batch=max_batch, in_flight=in_flight, max_queue=max_queue))
        accepted: list[Request] = []
        for step in steps:
            if step == "put":
                request = Request(len(accepted))
                try:
                    batcher.put(request)
                except Overloaded:
                    assert batcher.waiting >= max_queue
                else:
                    accepted.append(request)
                assert batcher.waiting <= max_queue
            elif step == "turn":
                await settle()
            elif step == "open":
                worker.gate.set()
            elif step == "close":
                worker.gate.clear()
            elif accepted and accepted[-1].number not in {n for batch in worker.batches for n in batch}:
                accepted[-1].done = True
        worker.gate.set()
        for _ in range(len(accepted) + 1):
            await settle()
        travelled = [number for batch in worker.batches for number in batch]
        assert travelled == [r.number for r in accepted if not r.done]
        assert all(len(batch) <= max_batch for batch in worker.batches)
        assert worker.most_running <= in_flight

    asyncio.run(scenario())


class Timed:
    """Takes 0.4 s per batch, so that a hold may last 0.1 s."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.ended = asyncio.Event()

    async def __call__(self, requests: Sequence[Request]) -> None:
        self.batches.append([r.number for r in requests])
        await asyncio.sleep(0.4)
        self.ended.set()


async def test_the_callers_of_an_answered_batch_travel_together_again() -> None:
    worker = Timed()
    batcher = batcher_of(worker, BatcherConfig(linger_ms=100))
    for number in range(3):
        batcher.put(Request(number))
    await worker.ended.wait()
    for number in range(3, 6):
        await settle()
        batcher.put(Request(number))
    assert batcher.waiting == 3
    await settle()
    assert worker.batches == [[0, 1, 2], [3, 4, 5]]


async def test_those_that_came_leave_when_no_more_come() -> None:
    worker = Timed()
    batcher = batcher_of(worker, BatcherConfig(linger_ms=50))
    for number in range(3):
        batcher.put(Request(number))
    await worker.ended.wait()
    await settle()
    batcher.put(Request(3))
    batcher.put(Request(4))
    await settle()
    assert batcher.waiting == 2
    await asyncio.sleep(0.2)
    assert worker.batches == [[0, 1, 2], [3, 4]]


async def test_a_lone_request_and_a_fuller_queue_hold_nothing() -> None:
    worker = Timed()
    batcher = batcher_of(worker, BatcherConfig(in_flight=1, max_batch=2, linger_ms=100))
    batcher.put(Request(0))
    await worker.ended.wait()
    await settle()
    for number in range(1, 5):
        batcher.put(Request(number))
    await settle()
    assert worker.batches == [[0], [1, 2]]
    worker.ended.clear()
    await worker.ended.wait()
    await settle()
    assert worker.batches == [[0], [1, 2], [3, 4]]
