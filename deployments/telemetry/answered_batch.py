"""The columns of an answered batch, as the drift client buffers them and `drift_signals.py` measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from deployments.messages import CandidateBatch, Floats, ProfileBatch, RankedBatch, RequestBatch, ScoreBatch, Times
from deployments.pipeline.batch import BatchState

NO_FALLBACK = "none"
"""Label of an answer without a fallback."""


@dataclass(frozen=True, slots=True)
class AnsweredBatch:
    """The requests of an answered batch, and the result of each stage."""

    requests: RequestBatch
    profiles: ProfileBatch
    candidates: CandidateBatch
    scores: ScoreBatch
    ranked: RankedBatch
    asked_B: Times
    """Arrival of the request, Unix seconds."""
    latest_B: Times
    """Time of the user's last event, Unix seconds; NaN: unknown."""
    unknown_B: Floats
    """Share of the request's item ids that are not in the catalogue; 0 if it has no item ids."""
    degraded: Sequence[str]
    """Per row the first `stage:reason` of its answer, or NO_FALLBACK."""

    @classmethod
    def of(cls, batch: BatchState) -> AnsweredBatch:
        """From the state of a batch that has been answered. The scores per source are left out: they are most of the
        bytes."""
        assert batch.profiles is not None
        assert batch.candidates is not None
        assert batch.scores is not None
        assert batch.ranked is not None
        queries = [pending.query for pending in batch.pending_requests]
        named_B = np.array([q.unknown + len(q.excluded) + len(q.given) for q in queries], np.float32)
        unknown_B = np.array([q.unknown for q in queries], np.float32)
        return cls(
            requests=batch.requests,
            profiles=batch.profiles,
            # Copied: an empty view would keep the whole array alive.
            candidates=replace(batch.candidates, source_scores_BKS=batch.candidates.source_scores_BKS[:, :, :0].copy()),
            scores=batch.scores,
            ranked=batch.ranked,
            asked_B=np.array([pending.arrived for pending in batch.pending_requests]),
            latest_B=np.full(len(queries), np.nan) if batch.latest_B is None else batch.latest_B,
            unknown_B=(unknown_B / np.maximum(named_B, 1)).astype(np.float32),
            degraded=[batch.degraded[0] if batch.degraded else NO_FALLBACK] * len(queries),
        )

    def take(self, rows: Sequence[int]) -> AnsweredBatch:
        """The given rows."""
        index = np.array(rows, np.intp)
        return AnsweredBatch(
            requests=self.requests.take(index),
            profiles=self.profiles.take(index),
            candidates=self.candidates.take(index),
            scores=self.scores.take(index),
            ranked=self.ranked.take(index),
            asked_B=self.asked_B[index],
            latest_B=self.latest_B[index],
            unknown_B=self.unknown_B[index],
            degraded=[self.degraded[row] for row in rows],
        )

    @classmethod
    def concat(cls, parts: Sequence[AnsweredBatch]) -> AnsweredBatch:
        """All rows, in order."""
        return cls(
            requests=RequestBatch.concat([p.requests for p in parts]),
            profiles=ProfileBatch.concat([p.profiles for p in parts]),
            candidates=CandidateBatch.concat([p.candidates for p in parts]),
            scores=ScoreBatch.concat([p.scores for p in parts]),
            ranked=RankedBatch.concat([p.ranked for p in parts]),
            asked_B=np.concatenate([p.asked_B for p in parts]),
            latest_B=np.concatenate([p.latest_B for p in parts]),
            unknown_B=np.concatenate([p.unknown_B for p in parts]),
            degraded=[entry for p in parts for entry in p.degraded],
        )
