"""GPU plans: never over capacity whatever Ray puts together, every minimum or a refusal that names the stage."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cluster.gpus.gpu_plan import GIB, MIB, UNITS, DoesNotFit, Gpu, Need, Plan, plan

SMALL, LARGE = Gpu("small", 15 * GIB), Gpu("large", 80 * GIB)

gpus = st.lists(st.builds(Gpu, st.just("any"), st.integers(1 * GIB, 80 * GIB)), min_size=1, max_size=6)


def need(stage: str, *values: int | float) -> Need:
    weights, row, rows, compute, fraction, least, more = values
    most = 0 if more == 0 else max(1, least + more)
    return Need(stage, int(weights), int(row), 512 * MIB, int(rows), compute, fraction, int(least), int(most))


def planned(needs: list[Need], gpus: list[Gpu]) -> Plan | DoesNotFit:
    try:
        return plan(needs, gpus)
    except DoesNotFit as refusal:
        return refusal


needs = st.lists(
    st.tuples(
        st.integers(0, 10 * GIB),
        st.integers(0, 8 * MIB),
        st.integers(1, 512),
        st.floats(0.001, 1),
        st.sampled_from([0.0, 0.0, 0.0, 0.25, 0.333, 0.6, 1.0]),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=4,
).map(lambda rows: [need(f"stage{i}", *row) for i, row in enumerate(rows)])


@settings(max_examples=150, deadline=None)
@given(needs, gpus)
def test_no_gpu_is_over_capacity_and_every_stage_is_within_its_bounds(needs: list[Need], gpus: list[Gpu]) -> None:
    made = planned(needs, gpus)
    if isinstance(made, DoesNotFit):
        assert made.stage in {need.stage for need in needs}
        return
    placed: Counter[str] = Counter()
    stages = {stage.need.stage: stage for stage in made.stages}
    for load in made.gpus:
        on_it = [stages[name] for name, count in load.replicas.items() for _ in range(count)]
        assert sum(stage.units for stage in on_it) <= UNITS
        assert sum(stage.need.bytes(stage.rows) for stage in on_it) <= load.gpu.memory
        assert sum(stage.need.compute for stage in on_it) <= 1 + 1e-6
        placed += load.replicas
    for stage in made.stages:
        assert stage.need.min_replicas == stage.min_replicas <= stage.max_replicas == placed[stage.need.stage]
        assert stage.max_replicas >= 1
        assert 1 <= stage.rows <= stage.need.rows
        assert not stage.need.max_replicas or stage.max_replicas <= stage.need.max_replicas


@settings(max_examples=150, deadline=None)
@given(needs, gpus, st.lists(st.integers(0, 3), max_size=60))
def test_whatever_ray_puts_on_a_gpu_by_the_fractions_alone_fits_in_bytes_and_compute(
    needs: list[Need], gpus: list[Gpu], arrivals: list[int]
) -> None:
    made = planned([replace(need, min_replicas=0, max_replicas=0) for need in needs], gpus)
    assume(isinstance(made, Plan))
    assert isinstance(made, Plan)
    units = used = 0
    compute = 0.0
    for arrival in arrivals:
        stage = made.stages[arrival % len(made.stages)]
        if units + stage.units <= UNITS:
            units, used, compute = units + stage.units, used + stage.used, compute + stage.need.compute
    assert used <= min(gpu.memory for gpu in gpus)
    assert compute <= 1 + 1e-6


@settings(max_examples=150, deadline=None)
@given(needs, gpus)
def test_the_remedy_of_a_refusal_makes_the_stage_fit(needs: list[Need], gpus: list[Gpu]) -> None:
    refusal = planned(needs, gpus)
    assume(isinstance(refusal, DoesNotFit))
    assert isinstance(refusal, DoesNotFit)
    if refusal.gpus:
        smallest = min(gpus, key=lambda gpu: gpu.memory)
        plan(needs, [*gpus, *[smallest] * refusal.gpus])
    elif refusal.rows:
        one = next(need for need in needs if need.stage == refusal.stage)
        assert plan([replace(one, rows=refusal.rows, min_replicas=1)], gpus).stages[0].rows == refusal.rows


def test_the_fraction_is_the_larger_of_both_shares() -> None:
    by_bytes, by_compute = (
        plan([Need("scoring", weights, 0, 0, 1, compute)], [SMALL]).stages[0]
        for weights, compute in ((6 * GIB, 0.1), (1 * GIB, 0.25))
    )
    assert (by_bytes.fraction, by_bytes.per_gpu, by_bytes.max_replicas) == (0.4, 2, 2)
    assert (by_compute.fraction, by_compute.per_gpu, by_compute.max_replicas) == (0.25, 4, 4)


def test_where_types_differ_the_fraction_holds_on_the_smallest() -> None:
    stage = plan([Need("scoring", 6 * GIB, 0, 0, 1, 0.1)], [LARGE, SMALL]).stages[0]
    assert (stage.fraction, stage.max_replicas) == (0.4, 4)


def test_a_given_fraction_limits_the_batch() -> None:
    stage = plan([Need("scoring", 1 * GIB, 16 * MIB, 512 * MIB, 256, 0.2, fraction=0.25)], [SMALL]).stages[0]
    assert (stage.fraction, stage.rows) == (0.25, (15 * 1024 // 4 - 1536) // 16)


def test_a_redeploy_has_room_only_where_the_minima_fit_twice() -> None:
    two = Need("scoring", 1 * GIB, 0, 0, 1, 0.5, min_replicas=2)
    assert not plan([two], [SMALL]).surge
    assert plan([two], [SMALL, SMALL]).surge


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([Need("scoring", 20 * GIB, 0, 0, 1, 0.1)], r"scoring: a replica needs 20.0 GiB .* use GPUs of 20.0 GiB"),
        ([Need("scoring", GIB, 64 * MIB, 0, 512, 0.1)], r"scoring: .* lower the batch limit to 224, or use GPUs of"),
        ([Need("scoring", GIB, 0, 0, 1, 0.4, min_replicas=5)], r"scoring: its minimum of 5, .* add 2 GPUs, or"),
        ([Need("scoring", 4 * GIB, 0, 0, 1, 0.1, fraction=0.25)], r"scoring: fraction 0.25 of a .* raise it to 0.27"),
        ([Need("scoring", GIB, 0, 0, 1, 0.5, fraction=0.25)], r"scoring: fraction 0.25 is less than .* raise it"),
        (
            [Need("a", GIB, 0, 0, 1, 0.6), Need("b", GIB, 0, 0, 1, 0.6)],
            r"b: its minimum of 1, 0.6 .* 1 GPU with .* add 1 GPU, or",
        ),
    ],
)  # fmt: skip
def test_a_refusal_names_the_stage_and_the_remedy(wrong: list[Need], message: str) -> None:
    with pytest.raises(DoesNotFit, match=message):
        plan(wrong, [SMALL])


@pytest.mark.parametrize(
    "values",
    [
        {"weights": -1},
        {"row": -5},
        {"context": -1},
        {"rows": 0},
        {"compute": 0.0},
        {"compute": float("nan")},
        {"compute": 1.5},
        {"fraction": float("nan")},
        {"fraction": 2.0},
        {"fraction": 0.00001},
        {"min_replicas": -1},
        {"min_replicas": 3, "max_replicas": 2},
    ],
)
def test_an_invalid_need_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"scoring: .* must be"):
        Need(**({"stage": "scoring", "weights": 1, "row": 1, "context": 1, "rows": 1, "compute": 0.5} | values))  # type: ignore[arg-type]


def test_without_gpus_or_stages_there_is_no_plan() -> None:
    with pytest.raises(ValueError, match="0 GPUs"):
        plan([Need("scoring", 1, 1, 1, 1, 0.1)], [])
    with pytest.raises(ValueError, match="no stage"):
        plan([], [SMALL])
