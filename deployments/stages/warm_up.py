"""Recorded requests in the artifact: what every stage was given, to warm a replica up before it is ready."""

from __future__ import annotations

from typing import Any, get_type_hints

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.messages import Batch, CandidateBatch, HistoryBatch, ProfileBatch, RequestBatch, ScoreBatch
from deployments.stages.contract import Stage
from deployments.stages.oom_guard import OomGuard

FILE = "recorded.safetensors"
MESSAGES: tuple[type[Batch], ...] = (HistoryBatch, RequestBatch, ProfileBatch, CandidateBatch, ScoreBatch)
REQUESTS = 32
SIZES = (1, 8, REQUESTS)
"""Batches of a warm-up."""


def write(writer: ArtifactWriter, messages: list[Batch]) -> None:
    """Keeps one message of each kind in MESSAGES; all have the same rows."""
    writer.derived(FILE)
    columns = {f"{type(m).__name__}.{name}": getattr(m, name) for m in messages for name, _ in m._columns()}
    writer.tensors(FILE, columns)


def read(artifact: Artifact) -> dict[type[Batch], Batch]:
    """The recorded messages by kind; none, if the artifact has no recording."""
    if FILE not in artifact.manifest.derived:
        return {}
    tensors = artifact.tensors(FILE)
    found: dict[type[Batch], Batch] = {}
    for kind in MESSAGES:
        columns: dict[str, Any] = {name: tensors[f"{kind.__name__}.{name}"] for name, _ in kind._columns()}
        if kind is CandidateBatch:
            columns["sources"] = tuple(spec["name"] for spec in artifact.manifest.settings["sources"])
        found[kind] = kind(model_version=artifact.model_version, **columns)
    return found


def warm_up(stage: Stage, artifact: Artifact) -> None:
    """Calls `stage` with the recorded requests, in batches of SIZES: what is compiled, mapped or allocated on the first
    call is then done."""
    recorded = read(artifact)
    kinds = [kind for name, kind in get_type_hints(type(stage).__call__).items() if name != "return"]
    if any(kind not in recorded for kind in kinds):
        return
    call = OomGuard(REQUESTS).guarded(stage)
    for size in SIZES:
        call(*(recorded[kind].take(slice(size)) for kind in kinds))
