"""A request in the pipeline (`PendingRequest`), the batch that it travels in (`BatchState`), and its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from deployments.messages import (
    CandidateBatch,
    ProfileBatch,
    RankedBatch,
    RequestBatch,
    ScoreBatch,
    Times,
)
from deployments.pipeline.request import Query, arrival
from monitoring.logs.context import RequestLogContext, current_request


@dataclass(frozen=True, slots=True)
class Answer:
    """One row of the funnel's result. `batch` holds the messages of all stages, for explanations and metrics."""

    items: list[int]
    """Catalogue positions, best first."""
    scores: list[float]
    sources: list[str]
    degraded: list[str]
    row: int
    batch: BatchState


@dataclass(frozen=True, slots=True)
class Cached:
    """The cache entry of a request. `columns`: empty if there is none; see `ResultCache`."""

    key: str
    version: bytes
    columns: tuple[bytes, ...] = ()


class PendingRequest:
    """A request in the batcher or the pipeline; its first answer counts."""

    __slots__ = ("answer", "arrived", "batch", "cached", "query", "request")

    def __init__(self, query: Query) -> None:
        self.query = query
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.arrived = arrival()
        self.batch: BatchState | None = None
        self.cached: Cached | None = None
        self.request: RequestLogContext | None = current_request()

    @property
    def done(self) -> bool:
        return self.answer.done()


@dataclass(slots=True)
class BatchState:
    """One batch: its requests, and the messages of the stages so far. A row belongs to each of `pending_requests`."""

    pending_requests: list[PendingRequest]
    requests: RequestBatch
    size: int
    batch_id: str = ""
    began: float = field(default_factory=time.time)
    """Unix seconds at which it left the queue."""
    stage: str = "queue"
    skipped: bool = False
    """It left the queue too late for its stages, and gets fallbacks (overload/late_work.py)."""
    profiles: ProfileBatch | None = None
    candidates: CandidateBatch | None = None
    known: ScoreBatch | None = None
    """The scores that the cache had, NaN in rows that it had none for. None: the cache had no scores for any row."""
    scores: ScoreBatch | None = None
    ranked: RankedBatch | None = None
    latest_B: Times | None = None
    """Unix seconds of each user's last event, NaN: none."""
    degraded: list[str] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)

    def only(self, rows: Sequence[int]) -> BatchState:
        """A batch of these rows alone."""
        index = np.array(rows, np.intp)
        names = ("requests", "profiles", "candidates", "known", "scores", "ranked")
        messages = {name: getattr(self, name) for name in names}
        return replace(
            self,
            pending_requests=[self.pending_requests[row] for row in rows],
            degraded=list(self.degraded),
            timings_ms=dict(self.timings_ms),
            latest_B=None if self.latest_B is None else self.latest_B[index],
            **{name: batch and batch.take(index) for name, batch in messages.items()},
        )

    def put(self, rows: Sequence[int], part: BatchState) -> None:
        """Takes the scores of `rows` from `part`, the others from the cache."""
        assert self.candidates is not None
        assert self.known is not None
        assert part.scores is not None
        others = np.setdiff1d(np.arange(len(self.pending_requests)), rows)
        order = np.argsort(np.concatenate([others, rows]))
        known = replace(part.scores, scores_BK=self.known.scores_BK[others])
        scores = ScoreBatch.concat([known, part.scores]).take(order)
        self.scores = replace(scores, scores_BK=np.where(self.candidates.mask_BK, scores.scores_BK, -np.inf))
        self.degraded = part.degraded

    def drop_answered(self) -> BatchState:
        """The batch without rows that are answered already, because their deadline has come."""
        rows = [row for row, pending in enumerate(self.pending_requests) if not pending.done]
        if len(rows) == len(self.pending_requests):
            return self
        rest = self.only(rows)
        for pending in rest.pending_requests:
            pending.batch = rest
        return rest
