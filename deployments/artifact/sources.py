"""The artifact's declarations of its retrieval sources."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.artifact.reader import Artifact
from deployments.messages import Floats

SOURCE_HISTORY_LENGTH = 150
"""Most recent events that neighbour sources and ranking features read."""


class SourceSpec(BaseModel):
    """One entry of the manifest's `settings.sources`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """Name of the source, as in an answer's `source`."""
    kind: Literal["neighbours", "vectors", "popularity", "history"]
    """How the source finds items; `history`: the user's own ones, which an answer may contain again."""
    quota: int = Field(ge=1)
    """Most candidates from the source's list, and its weight in the interleaving of the lists."""
    table: str = ""
    """neighbours: the table in `neighbours.safetensors`."""
    decay: float = 10.0
    """neighbours, history: age, in events, at which an event counts 1/e."""


def popularity(artifact: Artifact) -> Floats:
    """The popularity source's scores [N], equal for all users: log share of events, recent and over all time."""
    scores_N: Floats = artifact.tensors("popularity.safetensors")["score_N"]
    return scores_N
