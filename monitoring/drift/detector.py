"""Collects samples of live traffic into windows and compares each closed window with the reference.

A window closes after `window_s` if it has `min_rows`; with less traffic it stays open, for at most `longest_window_s`.
`verdicts.py` decides what the distances of a window mean. No Ray, no HTTP; the caller passes the time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from monitoring.drift.distances import distances
from monitoring.drift.drift_config import DriftConfig
from monitoring.drift.histograms import Columns, Histograms, concat
from monitoring.drift.online_quality import Feedback, OnlineQuality, ShownAnswer
from monitoring.drift.reference import Reference
from monitoring.drift.verdicts import DriftJudge, Finding, Verdict, counts


@dataclass(frozen=True, slots=True)
class DriftSample:
    """A message of an ingress replica: measured rows with hashes of their users, answers, and events on answers."""

    replica: str
    model_version: str
    rows: Columns | None
    users_B: npt.NDArray[np.uint64]
    shown: Sequence[ShownAnswer]
    feedback: Sequence[Feedback] = ()
    dropped: int = 0
    """Requests dropped because the replica's buffer was full, since the replica started."""


@dataclass(slots=True)
class _Window:
    began: float
    histograms: Histograms
    rows: int = 0
    users: set[Hashable] = field(default_factory=set)


class DriftDetector:
    """Verdicts on every signal of `reference`. Times are Unix seconds."""

    def __init__(self, reference: Reference, config: DriftConfig, model_version: str, n_items: int, now: float) -> None:
        self._reference, self._config, self._model_version = reference, config, model_version
        self._judge = DriftJudge(reference.cells.signals, config.verdicts)
        self._window = _Window(now, reference.cells.empty())
        self._online_quality = OnlineQuality(config.exposure, n_items)
        self._recent: list[Columns] = []
        self._findings: dict[str, Finding] = {}
        self._closed: Histograms | None = None
        self._closed_window: dict[str, Any] = {}
        self._since: dict[str, float] = {}
        self.windows = 0
        self._dropped: dict[str, int] = {}
        self._other_version = 0
        self._began = now

    def add(self, sample: DriftSample, now: float) -> None:
        """Counts a sample. The rows of a sample made with another model are counted as `other_model` alone."""
        self.tick(now)
        self._dropped[sample.replica] = sample.dropped
        if sample.model_version != self._model_version:
            self._other_version += len(sample.users_B)
            return
        self._online_quality.add(sample.shown, sample.feedback, now)
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
        """Closes the window if it is due."""
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
        self._closed = window.histograms
        self._closed_window = {"from": window.began, "to": now, "users": window.rows}
        self.windows += 1
        self._window = _Window(now, self._reference.cells.empty())

    def recent(self) -> Columns | None:
        """About the last `deep.rows` live rows; None before the first."""
        return concat(self._recent) if self._recent else None

    def verdicts(self) -> dict[str, str]:
        """Signal → verdict."""
        return {name: str(finding.verdict) for name, finding in self._findings.items()} or {
            name: str(Verdict.INSUFFICIENT_DATA) for name in self._reference.cells.signals
        }

    def report(self, now: float) -> dict[str, Any]:
        """The verdicts with their numbers, ready for JSON; drifting signals first, the largest effect first."""
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
            "window": self._closed_window or None,
            "open_window": {"from": self._window.began, "users": self._window.rows},
            "counts": tally,
            "signals": {name: self._signal(name, finding) for name, finding in findings}
            or {name: {"verdict": str(Verdict.INSUFFICIENT_DATA)} for name in self._reference.cells.signals},
            "answers": self._online_quality.report(now),
            "dropped": sum(self._dropped.values()),
            "other_model": self._other_version,
        }

    def _signal(self, name: str, finding: Finding) -> dict[str, Any]:
        cells, s = self._reference.cells, self._reference.cells.signals.index(name)
        entry: dict[str, Any] = {
            key: round(v, 6) if isinstance(v, float) else str(v) for key, v in asdict(finding).items()
        }
        entry["since"] = self._since.get(name)
        if finding.verdict in (Verdict.WARN, Verdict.DRIFT) and self._closed is not None:
            shares = [
                histograms.counts_SM[s] / max(histograms.counts_SM[s].sum(), 1e-12)
                for histograms in (self._reference.histograms, self._closed)
            ]
            entry["cells"] = [
                {"cell": cell, "reference": round(share, 4), "window": round(live, 4)}
                for (cell, share), (_, live) in zip(
                    cells.named(name, shares[0]), cells.named(name, shares[1]), strict=True
                )
            ]
        return entry
