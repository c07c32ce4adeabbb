"""The candidate and scoring stages with the result cache before them: rows that the cache has are not computed
again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from deployments.messages import CandidateBatch, ScoreBatch
from deployments.pipeline.batch import BatchState
from deployments.pipeline.result_cache import ResultCache
from deployments.stages import fallbacks
from monitoring.metrics.replica_metrics import ReplicaMetrics

log = logging.getLogger("rayfunnel.pipeline")

Call = Callable[..., Awaitable[Any]]
"""(deadline, messages) → the stage's message."""


class CachedStages:
    """Fills in a batch's candidates and scores. `cache`: None: every row is computed."""

    def __init__(self, candidates: Call, scoring: Call, cache: ResultCache | None, metrics: ReplicaMetrics) -> None:
        self._candidates, self._scoring = candidates, scoring
        self._cache, self._metrics = cache, metrics
        self.fallback_backend = ""
        """Why the last batch was scored by another backend than the configured one; empty: it was not."""

    async def find_candidates(self, batch: BatchState, deadline: float) -> None:
        """The cache's candidates where it has some, the stage's elsewhere."""
        assert batch.profiles is not None
        if self._cache is None:
            found: CandidateBatch = await self._candidates(deadline, batch.requests, batch.profiles)
            batch.degraded += fallbacks.missing_shards("candidates", found)
            batch.candidates = found
            return
        cached = [pending.cached for pending in batch.pending_requests]
        hits = {row: entry for row, entry in enumerate(cached) if entry and entry.columns}
        misses = [row for row in range(len(cached)) if row not in hits]
        self._metrics.cached(hits=len(hits), misses=len(misses))
        parts = [self._cache.candidates(list(hits.values()))] if hits else []
        if misses:
            rows = np.array(misses)
            computed = await self._candidates(deadline, batch.requests.take(rows), batch.profiles.take(rows))
            batch.degraded += fallbacks.missing_shards("candidates", computed)
            parts.append(computed)
        joined = CandidateBatch.concat(parts).take(np.argsort([*hits, *misses])) if len(parts) > 1 else parts[0]
        batch.known = self._cache.scores(cached, joined)
        batch.candidates = joined

    async def score(self, batch: BatchState, deadline: float) -> None:
        """The cache's scores where it has some, the stage's elsewhere."""
        rows = batch.known.missing_rows() if batch.known else range(len(batch.pending_requests))
        if not rows:
            batch.scores = batch.known
            return
        part = batch if len(rows) == len(batch.pending_requests) else batch.only(rows)
        found, complete = part.candidates, not part.degraded
        try:
            part.scores = await self._scoring(deadline, part.profiles, part.candidates)
            self._note_backend(part.scores)
        finally:
            if self._cache and found and complete:
                cached = [pending.cached for pending in part.pending_requests]
                self._cache.keep(cached, found, part.scores)
        if part is not batch:
            batch.put(rows, part)

    def _note_backend(self, scores: ScoreBatch) -> None:
        if scores.fallback_reason and scores.fallback_reason != self.fallback_backend:
            log.warning("scoring: %s", scores.fallback_reason)
        self.fallback_backend = scores.fallback_reason
        if scores.fallback_reason:
            self._metrics.backend_fallback("scoring", scores.ran_on)
