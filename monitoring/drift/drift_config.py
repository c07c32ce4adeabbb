"""The configuration of drift detection, composed of those of its parts."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from monitoring.drift.online_quality import OnlineQualityConfig
from monitoring.drift.sampling import SamplingConfig
from monitoring.drift.verdicts import VerdictConfig


class EvidentlyReportConfig(BaseModel):
    """Evidently's reports."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    every_s: float = Field(600.0, ge=10)
    """Seconds between reports; they take 10 s of one core."""
    rows: int = Field(1000, ge=50, le=20_000)
    """Rows of the reference, and of live traffic, in a report."""
    keep: int = Field(5, ge=1, le=100)
    """Reports kept on disk."""
    folder: str = "data/drift"
    """Folder of the reports and of the live rows, with a folder per model version."""
    timeout_s: float = Field(180.0, gt=0)
    """Time after which the process that writes a report is ended."""


class DriftConfig(BaseModel):
    """Whether and how drift is detected."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    enabled: bool = True
    """Whether drift is watched; `false` turns `GET /v1/drift` and `/drift` off."""
    window_s: float = Field(30.0, ge=1)
    """Length of a window; each gives one verdict per signal."""
    longest_window_s: float = Field(3600.0, ge=1)
    """With little traffic a window grows up to this length, until it has `verdicts.min_rows`."""
    answer_s: float = Field(1.0, gt=0, le=10)
    """How long `GET /v1/drift` waits for the drift actor."""
    sampling: SamplingConfig = SamplingConfig()
    """Which answered requests are compared."""
    verdicts: VerdictConfig = VerdictConfig()
    """When a signal drifts."""
    exposure: OnlineQualityConfig = OnlineQualityConfig()
    """Quality of the answers: coverage, CTR, NDCG."""
    deep: EvidentlyReportConfig = EvidentlyReportConfig()
    """Evidently's reports."""

    @model_validator(mode="after")
    def _ordered(self) -> DriftConfig:
        if self.longest_window_s < self.window_s:
            raise ValueError("longest_window_s can't be below window_s")
        return self
