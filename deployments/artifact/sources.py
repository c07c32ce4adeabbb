"""What the artifact says of the retrieval sources."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.artifact.reader import Artifact
from deployments.messages import Floats

READ = 150
"""Most recent events that neighbour sources read."""


class SourceSpec(BaseModel):
    """One entry of the manifest's `settings.sources`. `quota`: candidates it may bring before others catch up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["neighbours", "vectors", "popularity"]
    quota: int = Field(ge=1)
    table: str = ""
    """neighbours: which table of `neighbours.safetensors`."""
    decay: float = 10.0
    """neighbours: events until an event counts 1/e."""


def popularity(artifact: Artifact) -> Floats:
    """The popularity source's scores [N], the same for everybody: log share of events, recent and over all time."""
    scores_N: Floats = artifact.tensors("popularity.safetensors")["score_N"]
    return scores_N
