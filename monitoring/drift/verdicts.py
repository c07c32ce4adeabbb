"""Makes the drift verdict of each signal from the distances of its last windows, at a stated false discovery rate.

A signal differs in a window if the difference is significant (Benjamini & Hochberg 1995 over the signals, at `q`) and
large (`enter_effect`). It drifts once it differs in `enter_windows` of the last `of_windows` windows. Drift ends when
`enter_windows` of the last windows, the newest among them, are back below a lower threshold, `leave_effect`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from monitoring.drift.distances import Distances
from monitoring.drift.histograms import Doubles


class Verdict(StrEnum):
    """Of one signal."""

    OK = "OK"
    WARN = "WARN"
    """It differed in one of the last windows, or nearly in several."""
    DRIFT = "DRIFT"
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"
    """The last window had too few rows, or the reference does not have the signal."""


class VerdictConfig(BaseModel):
    """When a signal drifts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    q: float = Field(0.01, gt=0, lt=1)
    """False discovery rate over the signals of a window."""
    min_rows: int = Field(100, ge=10)
    """Least rows of a window, and of the reference, for a verdict."""
    enter_effect: float = Field(0.05, ge=0)
    """PSI (population stability index) above sampling noise from which on a difference counts."""
    leave_effect: float = Field(0.025, ge=0)
    """PSI above sampling noise below which drift may end."""
    enter_windows: int = Field(3, ge=1)
    """Windows that must differ for a drift to begin, and be normal for it to end."""
    of_windows: int = Field(5, ge=1)
    """The last windows that are counted."""

    @model_validator(mode="after")
    def _ordered(self) -> VerdictConfig:
        if self.enter_windows > self.of_windows:
            raise ValueError("enter_windows can't be more than of_windows")
        if self.leave_effect > self.enter_effect:
            raise ValueError("leave_effect can't be above enter_effect: a drift would end where it begins")
        return self


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one signal after a window, with the numbers it rests on."""

    verdict: Verdict
    effect: float
    psi: float
    jensen_shannon: float
    wasserstein: float
    p_value: float
    p_adjusted: float
    rows: float
    reference_rows: float


def adjusted(p_value_S: Doubles) -> Doubles:
    """p-values adjusted for S tests, to compare with the false discovery rate (Benjamini & Hochberg 1995): min over
    j ≥ i of p_(j) · S / j."""
    size = len(p_value_S)
    order = np.argsort(p_value_S, kind="stable")
    scaled = p_value_S[order] * size / np.arange(1, size + 1)
    found = np.empty(size)
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return found


class DriftJudge:
    """Turns the distances of one window after another into verdicts; keeps each signal's last windows."""

    def __init__(self, signals: tuple[str, ...], config: VerdictConfig) -> None:
        self._signals, self._config = signals, config
        self._differed = {name: deque[bool](maxlen=config.of_windows) for name in signals}
        self._nearly_differed = {name: deque[bool](maxlen=config.of_windows) for name in signals}
        self._drifting: set[str] = set()

    def __call__(self, found: Distances) -> dict[str, Finding]:
        """Every signal's finding after one more window; `found`: the distances of that window.

        A window with too few rows of a signal does not count for that signal.
        """
        config = self._config
        enough_S = (found.n_window_S >= config.min_rows) & (found.n_reference_S >= config.min_rows)
        p_adjusted_S = np.ones(len(self._signals))
        p_adjusted_S[enough_S] = adjusted(found.p_value_S[enough_S])
        differs_S = enough_S & (p_adjusted_S <= config.q) & (found.effect_S >= config.enter_effect)
        nearly_S = enough_S & (found.p_value_S <= config.q) & (found.effect_S >= config.leave_effect)
        findings = {}
        for s, name in enumerate(self._signals):
            verdict = self._verdict(name, bool(enough_S[s]), bool(differs_S[s]), bool(nearly_S[s]))
            findings[name] = Finding(
                verdict=verdict,
                effect=float(found.effect_S[s]),
                psi=float(found.psi_S[s]),
                jensen_shannon=float(found.jensen_shannon_S[s]),
                wasserstein=float(found.wasserstein_S[s]),
                p_value=float(found.p_value_S[s]),
                p_adjusted=float(p_adjusted_S[s]),
                rows=float(found.n_window_S[s]),
                reference_rows=float(found.n_reference_S[s]),
            )
        return findings

    def _verdict(self, name: str, enough: bool, differs: bool, nearly: bool) -> Verdict:
        if not enough:
            return Verdict.INSUFFICIENT_DATA
        config, differed, nearly_differed = self._config, self._differed[name], self._nearly_differed[name]
        differed.append(differs)
        nearly_differed.append(nearly)
        if name in self._drifting:
            quiet = len(nearly_differed) - sum(nearly_differed)
            if quiet >= config.enter_windows and not nearly:
                self._drifting.discard(name)
                differed.clear()  # else the same windows would start the drift again
                return Verdict.WARN if sum(nearly_differed) else Verdict.OK
            return Verdict.DRIFT
        if sum(differed) >= config.enter_windows:
            self._drifting.add(name)
            return Verdict.DRIFT
        return Verdict.WARN if any(differed) or sum(nearly_differed) >= config.enter_windows else Verdict.OK


def counts(findings: Mapping[str, Finding]) -> dict[str, int]:
    """How many signals have each verdict."""
    verdicts: npt.NDArray[np.str_] = np.array([str(finding.verdict) for finding in findings.values()], np.str_)
    return {str(verdict): int((verdicts == str(verdict)).sum()) for verdict in Verdict}
