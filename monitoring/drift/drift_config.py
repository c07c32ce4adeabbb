"""The configuration of drift detection, composed of those of its parts."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from monitoring.drift.online_quality import OnlineQualityConfig
from monitoring.drift.sampling import SamplingConfig
from monitoring.drift.verdicts import VerdictConfig


class EvidentlyReportConfig(BaseModel):
    """Evidently's reports."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every_s: float = Field(600.0, ge=10, description="Seconds between reports; they take 10 s of one core.")
    rows: int = Field(1000, ge=50, le=20_000, description="Rows of the reference, and of live traffic, in a report.")
    keep: int = Field(5, ge=1, le=100, description="Reports kept on disk.")
    folder: str = "data/drift"
    timeout_s: float = Field(180.0, gt=0)


class DriftConfig(BaseModel):
    """Whether and how drift is detected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    window_s: float = Field(30.0, ge=1)
    longest_window_s: float = Field(3600.0, ge=1)
    answer_s: float = Field(1.0, gt=0, le=10, description="How long GET /v1/drift waits for the actor.")
    sampling: SamplingConfig = SamplingConfig()
    verdicts: VerdictConfig = VerdictConfig()
    exposure: OnlineQualityConfig = OnlineQualityConfig()
    deep: EvidentlyReportConfig = EvidentlyReportConfig()

    @model_validator(mode="after")
    def _ordered(self) -> DriftConfig:
        if self.longest_window_s < self.window_s:
            raise ValueError("longest_window_s can't be below window_s")
        return self
