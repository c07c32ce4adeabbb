"""Warm-up of a stage before its replica is ready, with each stage's inputs as packaging recorded them."""

from __future__ import annotations

from typing import Any, get_type_hints

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.messages import Batch, CandidateBatch, HistoryBatch, ProfileBatch, RequestBatch, ScoreBatch
from deployments.stages.contract import Stage
from deployments.stages.oom_guard import OomGuard

RECORDING_FILE = "recorded.safetensors"
RECORDED_TYPES: tuple[type[Batch], ...] = (HistoryBatch, RequestBatch, ProfileBatch, CandidateBatch, ScoreBatch)
RECORDED_ROWS = 32
"""Rows of a recording."""

BATCH_SIZES = (1, 8, RECORDED_ROWS)
"""Rows of the warm-up batches."""


def write_recording(writer: ArtifactWriter, messages: list[Batch]) -> None:
    """Adds one message of each of RECORDED_TYPES to the artifact; all have the same rows."""
    writer.derived(RECORDING_FILE)
    columns = {f"{type(m).__name__}.{name}": getattr(m, name) for m in messages for name, _ in m._columns()}
    writer.tensors(RECORDING_FILE, columns)


def read_recording(artifact: Artifact) -> dict[type[Batch], Batch]:
    """The recorded messages by type; none if the artifact has no recording."""
    if RECORDING_FILE not in artifact.manifest.derived:
        return {}
    tensors = artifact.tensors(RECORDING_FILE)
    found: dict[type[Batch], Batch] = {}
    for kind in RECORDED_TYPES:
        columns: dict[str, Any] = {name: tensors[f"{kind.__name__}.{name}"] for name, _ in kind._columns()}
        if kind is CandidateBatch:
            columns["sources"] = tuple(spec["name"] for spec in artifact.manifest.settings["sources"])
        found[kind] = kind(model_version=artifact.model_version, **columns)
    return found


def warm_up(stage: Stage, artifact: Artifact) -> None:
    """Calls `stage` with the recorded messages, in batches of BATCH_SIZES.

    Afterwards, all that a first call compiles, maps or allocates is ready.
    """
    recorded = read_recording(artifact)
    kinds = [kind for name, kind in get_type_hints(type(stage).__call__).items() if name != "return"]
    if any(kind not in recorded for kind in kinds):
        return
    call = OomGuard(RECORDED_ROWS).guarded(stage)
    for size in BATCH_SIZES:
        call(*(recorded[kind].take(slice(size)) for kind in kinds))
