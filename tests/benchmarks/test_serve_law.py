"""Ray Serve's own law in the simulator."""

from __future__ import annotations

import pytest

from benchmarks.autoscaling.serve_law import ServeLaw
from cluster.autoscaling.observations import Observation, StageObservation
from graphs.commands.simulate import example_funnel


def targets(law: ServeLaw, ongoing: float, seconds: int, ready: int = 2) -> list[int]:
    found, target = [], ready
    for tick in range(2 * seconds):
        stage = StageObservation(ready, target, {}, ongoing)
        seen = Observation(tick / 2, {}, dict.fromkeys(("candidates", "scoring", "ranking"), stage))
        target = law.decide(seen)["scoring"]
        found.append(target)
    return found


def test_it_waits_its_delay_on_the_simulators_clock() -> None:
    found = targets(
        ServeLaw(example_funnel(), metrics_interval_s=0.5, look_back_period_s=2, upscale_delay_s=30), 20, 60
    )
    assert found[50] == 2
    assert found[-1] == 10, "20 requests at 2 per replica"


def test_it_stays_within_the_bounds() -> None:
    law = ServeLaw(example_funnel(most=5), metrics_interval_s=0.5, look_back_period_s=2, upscale_delay_s=0)
    assert max(targets(law, 1000, 10)) == 5


@pytest.mark.parametrize("delay", [5.0, 20.0])
def test_it_shrinks_after_its_delay(delay: float) -> None:
    law = ServeLaw(example_funnel(), metrics_interval_s=0.5, look_back_period_s=2, downscale_delay_s=delay)
    found = targets(law, 4, 60, ready=8)
    assert found[int(2 * delay) - 2] == 8
    assert found[int(2 * delay) + 6] == 2
