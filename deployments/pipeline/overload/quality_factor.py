"""The quality factor: when requests wait too long, each gets less work, before any is refused.

A number in [0, 1] per ingress replica, from the share of its time that a request has spent in the queue. Below 1 fewer
candidates are scored and ranked. Below `floor` none are scored (retrieval order). At 0 no stage but the profile is
called (popular items). The factor falls at once and rises by `recovery_per_s`. The
law itself is cluster/quality_law.py, which the simulator calls too.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.quality_law import factor_at, recovered


class QualityConfig(BaseModel):
    """When the factor falls, and how fast it rises again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(
        False, description="Whether it acts. Off: it cost answers in full in every load measured (benchmarks/NOTES.md)."
    )
    from_wait: float = Field(
        0.4, ge=0, lt=1, description="Share of its time in the queue up to which a request gets full quality."
    )
    to_wait: float = Field(0.8, gt=0, le=1, description="Share at which the factor is 0.")
    floor: float = Field(0.2, ge=0, le=1, description="Below this factor candidates are not scored.")
    recovery_per_s: float = Field(0.5, gt=0, description="How fast the factor may rise.")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if not self.from_wait < self.to_wait:
            raise ValueError(f"to_wait = {self.to_wait} must be greater than from_wait = {self.from_wait}")
        return self

    @property
    def middle(self) -> float:
        """The share in the middle of the two."""
        return (self.from_wait + self.to_wait) / 2


class QualityFactor:
    """The factor of one ingress replica."""

    def __init__(self, config: QualityConfig) -> None:
        self._config = config
        self._updated_at = float("-inf")
        self.factor = 1.0

    def update(self, now: float, waited_s: float, allowed_s: float) -> float:
        """The factor for a batch whose requests waited `waited_s` of the `allowed_s` until their deadline."""
        config = self._config
        if not config.enabled:
            return 1.0
        wait_share = waited_s / allowed_s if allowed_s > 0 else 1.0
        allowed = factor_at(wait_share, config.from_wait, config.to_wait)
        self.factor = min(allowed, recovered(self.factor, now - self._updated_at, config.recovery_per_s))
        self._updated_at = now
        return self.factor
