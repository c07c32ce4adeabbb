"""Online quality of the answers: coverage, concentration, click-through rate and NDCG.

Answers and events are sampled by the hash of their request id. So an answer and the events on it are both sampled or
both left out, whichever ingress replica they reach.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from monitoring.drift.ranking_metrics import ndcg

ShownAnswer = tuple[str, tuple[int, ...], bool]
"""An answer: request id, items in order (catalogue positions), whether it is degraded."""

Feedback = tuple[str, int, float]
"""An event on an answer: request id, item (catalogue position), weight (> 0: for the item, < 0: against it)."""


class OnlineQualityConfig(BaseModel):
    """Which answers are measured, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    share: float = Field(1.0, gt=0, le=1)
    """Share of the answers that are measured."""
    answers: int = Field(5000, ge=10)
    """Answers kept, the newest."""
    mature_s: float = Field(600.0, ge=0)
    """Age from which on an answer counts: its events have arrived, and later ones are left out."""


def is_sampled(request_id: str, share: float) -> bool:
    """Whether this request is in the sample; the same for the same id in every process."""
    return zlib.crc32(request_id.encode("utf-8", "surrogatepass")) < share * 2**32


@dataclass(slots=True)
class _Answer:
    at: float
    items: tuple[int, ...]
    degraded: bool
    gains: dict[int, float]


class OnlineQuality:
    """Keeps the newest answers and the events on them. `n_items`: size of the catalogue."""

    def __init__(self, config: OnlineQualityConfig, n_items: int) -> None:
        self._config, self._n_items = config, n_items
        self._answers: dict[str, _Answer] = {}
        self._order: deque[str] = deque()

    def add(self, shown: Sequence[ShownAnswer], feedback: Sequence[Feedback], now: float) -> None:
        """Adds new answers, and new events; events on an answer that is not kept are left out. Of several answers with
        one request id the first counts: a retry must not take the events of the answer before it."""
        for request_id, items, degraded in shown:
            if request_id not in self._answers:
                self._order.append(request_id)
                self._answers[request_id] = _Answer(now, items, degraded, {})
        while len(self._order) > self._config.answers:
            del self._answers[self._order.popleft()]
        for request_id, item, weight in feedback:
            answer = self._answers.get(request_id)
            if answer is not None and item in answer.items and now - answer.at <= self._config.mature_s:
                answer.gains[item] = max(answer.gains.get(item, -1.0), weight)

    def report(self, now: float) -> dict[str, Any]:
        """Over all answers that are kept: coverage, and the Gini coefficient of how often each item was shown. Over the
        answers older than `mature_s`: CTR, the share with a positive event on a shown item; over these, NDCG (binary
        gains; ideal: the hits first). None where there is nothing to count."""
        answers = list(self._answers.values())
        items = np.array([item for answer in answers for item in answer.items], np.int64)
        mature = [answer for answer in answers if now - answer.at >= self._config.mature_s]
        clicked = [answer for answer in mature if any(gain > 0 for gain in answer.gains.values())]
        return {
            "answers": len(answers),
            "coverage": round(len(np.unique(items)) / max(self._n_items, 1), 6) if len(items) else None,
            "gini": round(gini(np.bincount(items, minlength=self._n_items)), 6) if len(items) else None,
            "fallback_share": round(sum(a.degraded for a in answers) / len(answers), 6) if answers else None,
            "mature_answers": len(mature),
            "ctr": round(len(clicked) / len(mature), 6) if mature else None,
            "ndcg": round(float(np.mean([_ndcg(answer) for answer in clicked])), 6) if clicked else None,
        }


def gini(count_N: np.ndarray) -> float:
    """Gini coefficient Σ (2i - n - 1) x_(i) / (n Σ x). 0: all items are shown equally often; near 1: one item alone."""
    ordered = np.sort(count_N)
    size = len(ordered)
    total = float(ordered.sum())
    return float((2 * np.arange(1, size + 1) - size - 1) @ ordered / (size * total)) if total else 0.0


def _ndcg(answer: _Answer) -> float:
    """Relevant are the hits alone: users of live traffic never see the items that the answer left out."""
    hit_1T = np.array([[answer.gains.get(item, 0.0) > 0 for item in answer.items]])
    return float(ndcg(hit_1T, hit_1T.sum(axis=1), cutoff=len(answer.items))[0])
