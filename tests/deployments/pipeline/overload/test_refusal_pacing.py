"""When refusals are written."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.pipeline.overload.refusal_pacing import LONGEST_DELAY_S, REFUSAL_BURST, REFUSALS_PER_S, RefusalPacer


def test_refusals_past_a_burst_and_a_rate_are_spread_and_none_waits_longer_than_half_a_second() -> None:
    pacer = RefusalPacer()
    burst = [pacer.time_of_next(5.0) for _ in range(REFUSAL_BURST)]
    assert max(burst) <= 5.0
    spread = [pacer.time_of_next(5.0) for _ in range(round(REFUSALS_PER_S * LONGEST_DELAY_S))]
    assert spread[0] == pytest.approx(5.0 + 1 / REFUSALS_PER_S)
    np.testing.assert_allclose(np.diff(spread), 1 / REFUSALS_PER_S)
    assert pacer.time_of_next(5.0) == pacer.time_of_next(5.0) == 5.0 + LONGEST_DELAY_S
    assert pacer.time_of_next(9.0) < 9.0, "a pause gives the burst back"
    steady = [pacer.time_of_next(20 + i / REFUSALS_PER_S) - (20 + i / REFUSALS_PER_S) for i in range(2000)]
    assert max(steady) <= 0, "this rate needs no delay"
