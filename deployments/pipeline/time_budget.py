"""How a request's time is spent: the configured deadlines, and the time that a batch may take."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

STAGES = ("profile", "candidates", "scoring", "ranking")


class PipelineConfig(BaseModel):
    """How a request's time is spent."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    deadline_ms: int = Field(500, ge=10, le=60_000)
    """Deadline of a request that names none."""
    reserve_ms: int = Field(10, ge=0)
    """Time kept back for the response itself."""
    finished_by: dict[str, float] = {"profile": 0.25, "candidates": 0.55, "scoring": 0.9, "ranking": 1.0}
    """Each stage must finish before this share of the batch's time is used: 0.25 is after a quarter."""
    queue_share: float = Field(0.6, gt=0, lt=1)
    """A request should spend at most this share of its deadline in the queue; the limit on requests under way is
    adjusted to keep it so."""

    @model_validator(mode="after")
    def _shares_rise(self) -> PipelineConfig:
        shares = [self.finished_by.get(stage, -1.0) for stage in STAGES]
        if set(self.finished_by) != set(STAGES) or shares != sorted(shares) or not 0 < shares[0] <= shares[-1] <= 1:
            raise ValueError(f"finished_by: give {', '.join(STAGES)}, each in (0, 1], none before its predecessor")
        return self


def batch_time_s(left_s: Sequence[float], usual_s: float) -> float:
    """The time that a batch may take, from the time `left_s` of each of its requests.

    The least of them, so that a request with a long deadline does not keep a slot from the others. Requests with less
    than `usual_s` are left out: a timer of their own answers them.
    """
    return min((left for left in left_s if left >= usual_s), default=max(left_s))
