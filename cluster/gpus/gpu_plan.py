"""How much of a GPU a replica of each stage takes, and how many replicas fit. `python -m graphs plan` prints it.

Ray schedules by one number per replica, `num_gpus`: replicas share a GPU if their numbers add up to at most 1. So the
number is the larger of a replica's share of the bytes and its share of the compute, its dominant share (Ghodsi et al.
2011, *Dominant Resource Fairness*). Then any replicas that Ray puts on one GPU fit in both. Where GPU types differ, the
smallest one counts, since Ray may choose any. Sizes are bytes; shares are of one GPU, in (0, 1].
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, isfinite

MIB = 1 << 20
GIB = 1 << 30
UNITS = 10_000
"""Ray's resolution: fractions are counted in units of 1/10,000, exactly."""
STEP = 100
"""Chosen fractions are rounded up to a hundredth."""
MOST_GPUS = 1_000

MEMORY_GIB = {
    "T4": 14.5, "V100": 15.5, "A10G": 22.0, "L4": 22.0, "L40S": 44.0, "A100-40GB": 39.0, "A100-80GB": 79.0,
    "H100": 78.0, "H200": 139.0,
}  # fmt: skip
"""Memory of each type that processes can use, rounded down."""


class DoesNotFit(ValueError):
    """There is no plan. `stage`: the one that does not fit; `rows`: a batch limit with which one replica fits; `gpus`:
    how many more GPUs suffice; 0: no remedy of this kind."""

    def __init__(self, stage: str, message: str, rows: int = 0, gpus: int = 0) -> None:
        self.stage, self.rows, self.gpus = stage, rows, gpus
        super().__init__(f"{stage}: {message}")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A type of GPU. `memory`: bytes."""

    name: str
    memory: int

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ValueError(f"GPU {self.name}: memory is {self.memory} bytes; it must be greater than 0")


@dataclass(frozen=True, slots=True)
class Need:
    """Needs of one replica of a stage.

    `weights`, `context` (CUDA and its libraries) and `row` (activations per request of a batch, times the batches
    computed at a time): bytes. `rows`: largest batch wanted. `compute`: share of the weakest GPU that a replica keeps
    busy. `fraction`: `num_gpus` if it is given, 0: chosen here. `max_replicas` 0: as many as fit.
    """

    stage: str
    weights: int
    row: int
    context: int
    rows: int
    compute: float
    fraction: float = 0.0
    min_replicas: int = 1
    max_replicas: int = 0

    def __post_init__(self) -> None:
        for name in ("weights", "row", "context"):
            if getattr(self, name) < 0:
                raise ValueError(f"{self.stage}: {name} is {getattr(self, name)} bytes; it must be 0 or more")
        if self.rows < 1:
            raise ValueError(f"{self.stage}: a batch of {self.rows} rows; it must be at least 1")
        if not (isfinite(self.compute) and 0 < self.compute <= 1):
            raise ValueError(f"{self.stage}: compute is {self.compute}; it must be a share of one GPU, in (0, 1]")
        on_grid = isfinite(self.fraction) and abs(self.fraction * UNITS - round(self.fraction * UNITS)) < 1e-6
        if not (on_grid and 0 <= self.fraction <= 1):
            raise ValueError(f"{self.stage}: fraction {self.fraction} must be a multiple of {1 / UNITS} up to 1, or 0")
        if self.min_replicas < 0 or (self.max_replicas and self.max_replicas < max(1, self.min_replicas)):
            raise ValueError(
                f"{self.stage}: replicas {self.min_replicas}..{self.max_replicas}; it must be 0 ≤ min ≤ max, or max 0"
            )

    def bytes(self, rows: int) -> int:
        """Bytes of one replica with batches of `rows`."""
        return self.weights + self.context + rows * self.row


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """One GPU and its load: `replicas` per stage, and the sums of their `units`, bytes (`used`) and `compute`."""

    gpu: Gpu
    replicas: Counter[str] = field(default_factory=Counter)
    units: int = 0
    used: int = 0
    compute: float = 0.0


@dataclass(frozen=True, slots=True)
class StagePlan:
    """Plan of one stage. `units`: its fraction; `rows`: the largest batch; `min_replicas`, `max_replicas`: bounds."""

    need: Need
    units: int
    rows: int
    min_replicas: int
    max_replicas: int

    @property
    def least(self) -> int:
        """Replicas that must fit: a stage that scales to zero must be able to scale up again."""
        return max(1, self.min_replicas)

    @property
    def fraction(self) -> float:
        """The value of `num_gpus`."""
        return self.units / UNITS

    @property
    def per_gpu(self) -> int:
        """Replicas that share a GPU, if no others do."""
        return UNITS // self.units

    @property
    def used(self) -> int:
        """Bytes of one replica."""
        return self.need.bytes(self.rows)


@dataclass(frozen=True, slots=True)
class Plan:
    """`stages` in the order of the needs; `gpus` with all stages at their maximum. `surge`: the minima fit twice, as a
    redeploy needs, which starts new replicas before it stops the old ones."""

    stages: tuple[StagePlan, ...]
    gpus: tuple[GpuLoad, ...]
    surge: bool


def plan(needs: Sequence[Need], gpus: Sequence[Gpu]) -> Plan:
    """Fractions, bounds and batch limits for `needs` on `gpus` (one entry per GPU).

    Minima are packed first, the largest fraction first, each on the fullest GPU with room, as Ray does. The rest goes
    to the stages in turn. Ray places replicas in the order of their requests, so fewer than planned may fit where
    fractions of different stages leave gaps; the autoscaling policy then limits the stage.

    Raises:
        DoesNotFit: the minimum of a stage does not fit.
        ValueError: no stages, no GPUs, or too many.
    """
    if not needs:
        raise ValueError("no stage uses a GPU; declare what one needs")
    if not 1 <= len(gpus) <= MOST_GPUS:
        raise ValueError(f"{len(gpus)} GPUs; there must be between 1 and {MOST_GPUS:,}")
    if len({need.stage for need in needs}) < len(needs):
        raise ValueError("a stage is named twice; merge its entries")
    smallest = min(gpus, key=lambda gpu: gpu.memory)
    sized = [_sized(need, smallest, gpus) for need in needs]
    loads = _minima(sized, gpus)
    if isinstance(loads, str):
        raise _too_few(loads, sized, gpus)
    counts = _filled(sized, loads)
    twice = [replace(stage, min_replicas=2 * stage.least) for stage in sized]
    return Plan(
        tuple(replace(stage, max_replicas=counts[stage.need.stage]) for stage in sized),
        tuple(loads),
        surge=not isinstance(_minima(twice, gpus), str),
    )


def _sized(need: Need, smallest: Gpu, gpus: Sequence[Gpu]) -> StagePlan:
    """Fraction and batch limit of one replica on the smallest type."""
    fixed = need.weights + need.context
    units, rows = round(need.fraction * UNITS), need.rows
    if not units:
        room = smallest.memory
        if need.bytes(rows) > room:
            raise _too_large(need, smallest, gpus)
        share = max(need.bytes(rows) / smallest.memory, need.compute)
        units = min(UNITS, STEP * ceil(share * UNITS / STEP - 1e-9))
        if need.bytes(rows) * UNITS > units * smallest.memory:  # the quotient was rounded down
            units += STEP
        return StagePlan(need, units, rows, need.min_replicas, need.max_replicas)
    room = units * smallest.memory // UNITS
    if need.compute * UNITS > units + 1e-6:
        wrong = f"fraction {need.fraction:g} is less than its compute of {need.compute:g}; raise it, or lower compute"
        raise DoesNotFit(need.stage, wrong)
    if need.row:
        rows = min(rows, (room - fixed) // need.row)
    if rows < 1 or fixed > room:
        least = STEP * ceil(need.bytes(1) / smallest.memory * UNITS / STEP) / UNITS
        remedy = f"raise it to {least:g}" if least <= 1 else _larger(need.bytes(1), smallest, gpus)
        raise DoesNotFit(
            need.stage,
            f"fraction {need.fraction:g} of a {smallest.name} is {size(room)}, and a replica needs "
            f"{size(need.bytes(1))} for a batch of one; {remedy}",
        )
    return StagePlan(need, units, rows, need.min_replicas, need.max_replicas)


def _too_large(need: Need, smallest: Gpu, gpus: Sequence[Gpu]) -> DoesNotFit:
    fixed = need.weights + need.context
    rows = max(0, (smallest.memory - fixed) // need.row) if need.row else 0
    remedy = f"lower the batch limit to {rows}, or " if rows else ""
    return DoesNotFit(
        need.stage,
        f"a replica needs {size(need.bytes(need.rows))} (weights {size(need.weights)}, context "
        f"{size(need.context)}, {need.rows} rows of {size(need.row)}), and a {smallest.name} has "
        f"{size(smallest.memory)}; {remedy}{_larger(need.bytes(need.rows), smallest, gpus)}",
        rows=rows,
    )


def _larger(wanted: int, smallest: Gpu, gpus: Sequence[Gpu]) -> str:
    if any(gpu.memory >= wanted for gpu in gpus):
        return f"leave the {smallest.name} out"
    return f"use GPUs of {size(wanted)} or more"


def _too_few(stage: str, sized: Sequence[StagePlan], gpus: Sequence[Gpu]) -> DoesNotFit:
    """The error for `stage`, whose minimum does not fit, with the number of GPUs that suffice."""
    short = next(plan for plan in sized if plan.need.stage == stage)
    smallest = min(gpus, key=lambda gpu: gpu.memory)
    most = sum(plan.least for plan in sized)  # one GPU per replica always suffices

    def enough(more: int) -> bool:
        return not isinstance(_minima(sized, [*gpus, *[smallest] * more]), str)

    more = 1 + bisect_left(range(1, most), True, key=enough)
    return DoesNotFit(
        stage,
        f"its minimum of {short.least}, {short.fraction:g} of a GPU each, does not fit on {len(gpus)} "
        f"GPU{'s' * (len(gpus) > 1)} with the other stages' minima; add {more} GPU{'s' * (more > 1)}, or lower "
        f"min_replicas{'' if short.least > 1 else ' of another stage'}",
        gpus=more,
    )


def _minima(sized: Sequence[StagePlan], gpus: Sequence[Gpu]) -> list[GpuLoad] | str:
    """Every GPU with the minima on it; or the stage whose minimum does not fit."""
    loads = [GpuLoad(gpu) for gpu in gpus]
    for stage in sorted(sized, key=lambda stage: (-stage.units, stage.need.stage)):
        for _ in range(stage.least):
            if not _place(stage, loads):
                return stage.need.stage
    return loads


def _filled(sized: Sequence[StagePlan], loads: list[GpuLoad]) -> Counter[str]:
    """Fills `loads`, one replica at a time, for the stage with the fewest per minimum; returns replicas by stage."""
    counts = Counter({stage.need.stage: stage.least for stage in sized})
    open_stages = list(sized)
    while open_stages:
        stage = min(open_stages, key=lambda s: counts[s.need.stage] / s.least)
        name = stage.need.stage
        if (stage.max_replicas and counts[name] >= stage.max_replicas) or not _place(stage, loads):
            open_stages.remove(stage)
        else:
            counts[name] += 1
    return counts


def _place(stage: StagePlan, loads: list[GpuLoad]) -> bool:
    """Puts one replica on the fullest GPU with enough units, bytes and compute; False: there is none."""
    need = stage.need
    best: int | None = None
    for index, load in enumerate(loads):
        if (
            load.units + stage.units <= UNITS
            and load.used + stage.used <= load.gpu.memory
            and load.compute + need.compute <= 1 + 1e-9
            and (best is None or load.units > loads[best].units)
        ):
            best = index
    if best is None:
        return False
    load = loads[best]
    loads[best] = GpuLoad(
        load.gpu,
        load.replicas + Counter({need.stage: 1}),
        load.units + stage.units,
        load.used + stage.used,
        load.compute + need.compute,
    )
    return True


def size(n: int) -> str:
    """Bytes as text."""
    if n >= GIB:
        return f"{n / GIB:.1f} GiB"
    return f"{n / MIB:.1f} MiB" if n >= MIB else f"{n / 1024:.1f} KiB"
