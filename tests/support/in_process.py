"""A recommender whose stages run in the process of the test."""

from __future__ import annotations

from collections.abc import Callable

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from deployments.assembly import FunnelConfig, assemble
from deployments.pipeline.stage_client import Start, local
from deployments.pipeline.time_budget import PipelineConfig
from deployments.store.base import Store
from deployments.store.memory import MemoryStore
from deployments.telemetry.drift_client import DriftCall
from graphs.config import STAGES
from monitoring.drift.drift_config import DriftConfig
from tests.support.small_dataset import small_args

SLOTS = 4
"""Calls in flight per stage."""
PATIENT = FunnelConfig(pipeline=PipelineConfig(deadline_ms=30_000))
"""A machine that is busy with something else for half a second makes no answer a degraded one."""


def recommender_builder(artifact: Artifact, backend: str) -> Callable[..., Recommender]:
    """Loads the stages once; returns a function (store, config, other starts, drift) → Recommender.

    `backend`: of the scoring stage.
    """
    stages = small_args("", backend).stages
    built = {name: cls(artifact, getattr(stages, name).config) for name, (_, cls) in STAGES.items()}
    plain: dict[str, Start] = {name: local(stage, SLOTS) for name, stage in built.items()}
    plain["similar"] = local(built["candidates"].similar, SLOTS)

    def build(
        store: Store | None = None,
        config: FunnelConfig | None = None,
        starts: dict[str, Start] | None = None,
        drift: tuple[DriftConfig, DriftCall] | None = None,
    ) -> Recommender:
        config = config or PATIENT
        used = plain | (starts or {})
        slots = dict.fromkeys(used, SLOTS)
        return assemble(artifact, store or MemoryStore(config.store), used, slots, config, drift=drift)

    return build
