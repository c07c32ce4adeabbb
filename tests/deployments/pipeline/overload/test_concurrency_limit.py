"""Concurrency limits: a fixed one, and one that follows the queueing time that it leads to."""

from __future__ import annotations

import pytest

from deployments.errors import Overloaded
from deployments.pipeline.overload.concurrency_limit import AdaptiveConcurrencyLimit, ConcurrencyLimit, slot_taken

ALLOWED_S = 0.5


def settled(per_s: float, steps: int = 200) -> AdaptiveConcurrencyLimit:
    """After `steps` looks at a funnel that has more to do than its `per_s`."""
    limit, now = AdaptiveConcurrencyLimit(128, 384, 0.6), 1000.0
    for _ in range(steps):
        wait_s = limit.limit / per_s
        limit.refuse()
        limit.observe_wait(now, now + wait_s, ALLOWED_S)
        now += wait_s
    return limit


@pytest.mark.parametrize(("per_s", "limit"), [(500, 150), (1000, 300), (100, 128), (5000, 384)])
def test_it_settles_where_requests_wait_for_their_share(per_s: float, limit: int) -> None:
    assert settled(per_s).limit == pytest.approx(limit, abs=2)


def test_it_changes_no_more_until_the_change_shows() -> None:
    limit = AdaptiveConcurrencyLimit(128, 384, 0.6)
    limit.observe_wait(10.0, 10.4, ALLOWED_S)
    assert limit.limit == 288
    limit.observe_wait(10.1, 10.5, ALLOWED_S)  # came before the change
    assert limit.limit == 288
    limit.observe_wait(10.4, 10.8, ALLOWED_S)
    assert limit.limit == 216


def test_it_rises_only_while_it_refuses() -> None:
    limit = AdaptiveConcurrencyLimit(128, 384, 0.6)
    limit.observe_wait(10.0, 20.0, ALLOWED_S)
    assert limit.limit == 192
    limit.observe_wait(20.0, 20.01, ALLOWED_S)
    assert limit.limit == 192
    limit.refuse()
    limit.observe_wait(20.0, 20.01, ALLOWED_S)
    assert limit.limit == 240


def test_the_patient_may_wait_longer() -> None:
    limit = AdaptiveConcurrencyLimit(128, 384, 0.6)
    limit.observe_wait(10.0, 11.0, 10.0)
    assert limit.limit == 384


def test_a_full_limit_refuses_and_has_room_again_once_a_request_ends() -> None:
    limit = ConcurrencyLimit(2, "events", "event requests", "wait")
    with limit.slot(), limit.slot():
        assert limit.full
        with (
            pytest.raises(Overloaded, match="2 event requests are under way"),
            limit.slot(),
        ):
            pytest.fail("a third request was let in")
        assert limit.under_way == 2
    assert (limit.under_way, limit.full) == (0, False)


def test_a_request_whose_slot_the_fast_path_has_taken_takes_no_second_one() -> None:
    limit = ConcurrencyLimit(1, "events", "event requests", "wait")
    limit.enter()
    token = slot_taken.set(True)
    try:
        with limit.slot():
            assert limit.under_way == 1
    finally:
        slot_taken.reset(token)
    limit.leave()
    assert not limit.full
