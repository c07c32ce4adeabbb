"""How many requests are let in follows from how long those let in have waited."""

from __future__ import annotations

import pytest

from deployments.pipeline.overload.concurrency_limit import ConcurrencyLimit

ALLOWED_S = 0.5


def settled(per_s: float, steps: int = 200) -> ConcurrencyLimit:
    """After `steps` looks at a funnel that has more to do than its `per_s`."""
    admission, now = ConcurrencyLimit(128, 384, 0.6), 1000.0
    for _ in range(steps):
        wait_s = admission.limit / per_s
        admission.refused()
        admission.waited(now, now + wait_s, ALLOWED_S)
        now += wait_s
    return admission


@pytest.mark.parametrize(("per_s", "limit"), [(500, 150), (1000, 300), (100, 128), (5000, 384)])
def test_it_settles_where_requests_wait_for_their_share(per_s: float, limit: int) -> None:
    assert settled(per_s).limit == pytest.approx(limit, abs=2)


def test_it_changes_no_more_until_the_change_shows() -> None:
    admission = ConcurrencyLimit(128, 384, 0.6)
    admission.waited(10.0, 10.4, ALLOWED_S)
    assert admission.limit == 288
    admission.waited(10.1, 10.5, ALLOWED_S)  # came before the change
    assert admission.limit == 288
    admission.waited(10.4, 10.8, ALLOWED_S)
    assert admission.limit == 216


def test_it_rises_only_while_it_refuses() -> None:
    admission = ConcurrencyLimit(128, 384, 0.6)
    admission.waited(10.0, 20.0, ALLOWED_S)
    assert admission.limit == 192
    admission.waited(20.0, 20.01, ALLOWED_S)
    assert admission.limit == 192
    admission.refused()
    admission.waited(20.0, 20.01, ALLOWED_S)
    assert admission.limit == 240


def test_the_patient_may_wait_longer() -> None:
    admission = ConcurrencyLimit(128, 384, 0.6)
    admission.waited(10.0, 11.0, 10.0)
    assert admission.limit == 384
