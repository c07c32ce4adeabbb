"""The law that serves is the law that is simulated."""

from __future__ import annotations

import pytest

from cluster import quality_law
from cluster.simulator import step
from cluster.simulator.funnel import QualityLaw
from deployments.pipeline import cached_stages
from deployments.pipeline.overload import quality_factor
from deployments.pipeline.overload.quality_factor import QualityConfig


def test_the_simulator_compiles_the_functions_that_the_pipeline_calls() -> None:
    assert step.factor_at.py_func is quality_factor.factor_at is quality_law.factor_at
    assert step.recovered.py_func is quality_factor.recovered is quality_law.recovered
    assert step.work_share.py_func is cached_stages.work_share is quality_law.work_share


def test_the_simulated_law_has_the_live_defaults() -> None:
    live, simulated = QualityConfig(), QualityLaw()
    for name in ("from_wait", "to_wait", "floor", "recovery_per_s"):
        assert getattr(live, name) == getattr(simulated, name), name


def test_compiled_and_plain_functions_agree_to_the_last_digit() -> None:
    for i in range(200):
        factor, wait_share = i / 199, 1.3 * i / 199
        assert step.factor_at(wait_share, 0.4, 0.8) == quality_law.factor_at(wait_share, 0.4, 0.8)
        assert step.recovered(factor, 0.004, 0.5) == quality_law.recovered(factor, 0.004, 0.5)
        for cut, skipped in ((True, True), (True, False), (False, False)):
            assert step.work_share(factor, 0.2, cut, skipped) == quality_law.work_share(factor, 0.2, cut, skipped)


@pytest.mark.parametrize(("wait_share", "factor"), [(0.0, 1.0), (0.4, 1.0), (0.6, 0.5), (0.8, 0.0), (2.0, 0.0)])
def test_the_factor_falls_linearly_between_both_waits(wait_share: float, factor: float) -> None:
    assert quality_law.factor_at(wait_share, 0.4, 0.8) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("factor", "cut", "skipped", "share"),
    [(0.5, True, True, 0.5), (0.5, False, False, 1.0), (0.1, True, True, 0.0), (0.1, True, False, 1.0)],
)
def test_below_the_floor_a_stage_is_skipped_or_gets_every_candidate(
    factor: float, cut: bool, skipped: bool, share: float
) -> None:
    assert quality_law.work_share(factor, 0.2, cut, skipped) == share
