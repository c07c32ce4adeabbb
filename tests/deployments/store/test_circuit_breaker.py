"""The circuit breaker, on a test clock."""

from __future__ import annotations

import asyncio

import pytest

from deployments.errors import StoreUnavailable
from deployments.store.circuit_breaker import CircuitBreaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(failures=3, reset_s=10.0, clock=clock)


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(StoreUnavailable, match="no answer"), breaker.guard():
            raise StoreUnavailable("no answer")


def refuses(breaker: CircuitBreaker) -> bool:
    try:
        with breaker.guard():
            return False
    except StoreUnavailable:
        return True


def test_it_opens_after_so_many_failures_in_a_row(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    assert not refuses(breaker)
    fail(breaker, 3)
    assert breaker.open
    assert refuses(breaker)


def test_a_refusal_names_the_last_failure(breaker: CircuitBreaker) -> None:
    fail(breaker, 3)
    with (
        pytest.raises(StoreUnavailable, match="open: 3 failures in a row, the last: no answer"),
        breaker.guard(),
    ):
        pass


def test_after_reset_s_one_probe_is_made_and_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now = 10.0
    with breaker.guard():
        assert refuses(breaker), "a second call must wait for the probe"
    assert not refuses(breaker)


def test_a_failed_probe_keeps_it_open_for_reset_s_again(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now = 10.0
    fail(breaker)
    clock.now = 19.9
    assert refuses(breaker)
    clock.now = 20.0
    assert not refuses(breaker)


def test_after_a_cancelled_probe_another_one_is_made(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now = 10.0
    with pytest.raises(asyncio.CancelledError), breaker.guard():
        raise asyncio.CancelledError
    assert breaker.open
    assert not refuses(breaker)


def test_other_errors_do_not_count_as_failures(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        with pytest.raises(KeyError), breaker.guard():
            raise KeyError
    assert not refuses(breaker)
