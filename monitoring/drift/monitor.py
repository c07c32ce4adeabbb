"""Drift of live traffic against a reference, window by window. Knows neither Ray nor HTTP; the caller brings the clock.

A window closes after `window_s`, once it has `min_rows`; with less traffic it stays open, up to `longest_window_s`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from monitoring.drift.distances import distances
from monitoring.drift.histograms import Columns, Histograms, concat
from monitoring.drift.online_quality import Feedback, OnlineQuality, OnlineQualityConfig, Shown
from monitoring.drift.reference import Reference
from monitoring.drift.sampling import SamplingConfig
from monitoring.drift.verdicts import DriftJudge, Finding, Verdict, VerdictConfig, counts


class EvidentlyReportConfig(BaseModel):
    """Evidently's reports."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every_s: float = Field(600.0, ge=10, description="Seconds between reports; they take 10 s of one core.")
    rows: int = Field(1000, ge=50, le=20_000, description="Rows of the reference, and of live traffic, in a report.")
    keep: int = Field(5, ge=1, le=100, description="Reports kept on disk.")
    folder: str = "data/drift"
    timeout_s: float = Field(180.0, gt=0)


class DriftConfig(BaseModel):
    """Whether and how drift is watched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    window_s: float = Field(30.0, ge=1)
    longest_window_s: float = Field(3600.0, ge=1)
    answer_s: float = Field(1.0, gt=0, le=10, description="What GET /v1/drift waits for the actor.")
    sampling: SamplingConfig = SamplingConfig()
    verdicts: VerdictConfig = VerdictConfig()
    exposure: OnlineQualityConfig = OnlineQualityConfig()
    deep: EvidentlyReportConfig = EvidentlyReportConfig()

    @model_validator(mode="after")
    def _ordered(self) -> DriftConfig:
        if self.longest_window_s < self.window_s:
            raise ValueError("longest_window_s can't be below window_s")
        return self


@dataclass(frozen=True, slots=True)
class Sample:
    """What an ingress replica sends: measured rows and whose they are (hashes), answers shown and what came of them."""

    replica: str
    model_version: str
    rows: Columns | None
    users_B: npt.NDArray[np.uint64]
    shown: Shown
    feedback: Sequence[Feedback] = ()
    dropped: int = 0
    """Requests that found the replica's buffer full, since it started."""


@dataclass(slots=True)
class _Window:
    began: float
    histograms: Histograms
    rows: int = 0
    users: set[Hashable] = field(default_factory=set)


class DriftMonitor:
    """Verdicts on every signal of `reference`. Times are Unix seconds."""

    def __init__(self, reference: Reference, config: DriftConfig, model_version: str, n_items: int, now: float) -> None:
        self._reference, self._config, self._model_version = reference, config, model_version
        self._judge = DriftJudge(reference.cells.signals, config.verdicts)
        self._window = _Window(now, reference.cells.none())
        self._exposure = OnlineQuality(config.exposure, n_items)
        self._recent: list[Columns] = []
        self._findings: dict[str, Finding] = {}
        self._shares: Histograms | None = None
        self._last: dict[str, Any] = {}
        self._since: dict[str, float] = {}
        self.windows = 0
        self._dropped: dict[str, int] = {}
        self._other_version = 0
        self._began = now

    def add(self, sample: Sample, now: float) -> None:
        """Counts a sample; one that another model made is only counted as such."""
        self.tick(now)
        self._dropped[sample.replica] = sample.dropped
        if sample.model_version != self._model_version:
            self._other_version += len(sample.users_B)
            return
        self._exposure.add(sample.shown, sample.feedback, now)
        if sample.rows is None or not len(sample.rows):
            return
        window = self._window
        new_B = np.array([user not in window.users for user in sample.users_B.tolist()], np.bool_)
        rows = sample.rows if new_B.all() else sample.rows.take(new_B)
        if not len(rows):
            return
        window.users.update(sample.users_B.tolist())
        window.rows += len(rows)
        window.histograms = window.histograms.merge(self._reference.cells.count(rows))
        self._recent.append(rows)
        while sum(map(len, self._recent[1:])) >= self._config.deep.rows:
            del self._recent[0]

    def tick(self, now: float) -> None:
        """Closes the window if it is time."""
        window, config = self._window, self._config
        age_s = now - window.began
        if age_s < config.window_s or (window.rows < config.verdicts.min_rows and age_s < config.longest_window_s):
            return
        found = distances(self._reference.cells, self._reference.histograms, window.histograms, finite_users=True)
        before = {name: finding.verdict for name, finding in self._findings.items()}
        self._findings = self._judge(found)
        for name, finding in self._findings.items():
            if before.get(name) != finding.verdict:
                self._since[name] = now
        self._shares = window.histograms
        self._last = {"from": window.began, "to": now, "users": window.rows}
        self.windows += 1
        self._window = _Window(now, self._reference.cells.none())

    def recent(self) -> Columns | None:
        """The last `deep.rows` live rows or so; None before the first."""
        return concat(self._recent) if self._recent else None

    def verdicts(self) -> dict[str, str]:
        """Signal → verdict."""
        return {name: str(finding.verdict) for name, finding in self._findings.items()} or {
            name: str(Verdict.INSUFFICIENT_DATA) for name in self._reference.cells.signals
        }

    def report(self, now: float) -> dict[str, Any]:
        """All that is known, ready for JSON; signals that drift first, the largest effect first."""
        self.tick(now)
        order = {Verdict.DRIFT: 0, Verdict.WARN: 1, Verdict.OK: 2, Verdict.INSUFFICIENT_DATA: 3}
        findings = sorted(self._findings.items(), key=lambda entry: (order[entry[1].verdict], -entry[1].effect))
        tally = counts(self._findings)
        worst = next((v for v in (Verdict.DRIFT, Verdict.WARN, Verdict.OK) if tally[str(v)]), Verdict.INSUFFICIENT_DATA)
        return {
            "verdict": str(worst),
            "model_version": self._model_version,
            "watched_since": self._began,
            "windows": self.windows,
            "window": self._last or None,
            "open_window": {"from": self._window.began, "users": self._window.rows},
            "counts": tally,
            "signals": {name: self._shown(name, finding) for name, finding in findings}
            or {name: {"verdict": str(Verdict.INSUFFICIENT_DATA)} for name in self._reference.cells.signals},
            "answers": self._exposure.report(now),
            "dropped": sum(self._dropped.values()),
            "other_model": self._other_version,
        }

    def _shown(self, name: str, finding: Finding) -> dict[str, Any]:
        cells, s = self._reference.cells, self._reference.cells.signals.index(name)
        shown: dict[str, Any] = {
            key: round(v, 6) if isinstance(v, float) else str(v) for key, v in asdict(finding).items()
        }
        shown["since"] = self._since.get(name)
        if finding.verdict in (Verdict.WARN, Verdict.DRIFT) and self._shares is not None:
            shares = [
                histograms.counts_SM[s] / max(histograms.counts_SM[s].sum(), 1e-12)
                for histograms in (self._reference.histograms, self._shares)
            ]
            shown["cells"] = [
                {"cell": cell, "reference": round(share, 4), "window": round(live, 4)}
                for (cell, share), (_, live) in zip(
                    cells.named(name, shares[0]), cells.named(name, shares[1]), strict=True
                )
            ]
        return shown
