"""The funnel: profile → candidates → scoring → ranking, for a batch as a whole, within each request's deadline.

A stage that fails or runs late is replaced by its fallback, and the answer says so in `degraded`. A request whose own
deadline comes while its batch is still on the way is answered at once with the best that is known by then.
(Over 300 lines: each step and what stands in for it are read together.)
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments import timeouts
from deployments.errors import Overloaded, StageFailed, StoreUnavailable
from deployments.messages import PAD, CandidateBatch, HistoryBatch, ProfileBatch, RequestBatch, ScoreBatch, at
from deployments.pipeline.batch import Answer, BatchState, PendingRequest
from deployments.pipeline.batcher import Batcher, BatcherConfig
from deployments.pipeline.overload.concurrency_limit import ConcurrencyLimit
from deployments.pipeline.overload.quality_factor import QualityConfig, QualityFactor
from deployments.pipeline.overload.service_time import ServiceTime
from deployments.pipeline.replica_stats import ReplicaStats
from deployments.pipeline.request import Query, request_batch
from deployments.pipeline.result_cache import ResultCache
from deployments.pipeline.stage_client import StageClient
from deployments.stages import fallbacks
from monitoring.logs.context import BatchLogContext, log_context, new_batch_id
from monitoring.metrics.replica_metrics import ReplicaMetrics

log = logging.getLogger("rayfunnel.pipeline")

STAGES = ("profile", "candidates", "scoring", "ranking")

_JOIN_S = 0.05
"""Most that a request's deadline may be after that of an equal one, to be answered with it."""
_WAITED = 0.1
"""A batch that has spent less of its time in the queue is begun however long such work has taken."""


class PipelineConfig(BaseModel):
    """How a request's time is spent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deadline_ms: int = Field(500, ge=10, le=60_000, description="Deadline of a request that names none.")
    reserve_ms: int = Field(10, ge=0, description="Kept back for the answer itself.")
    finished_by: dict[str, float] = Field(
        {"profile": 0.25, "candidates": 0.55, "scoring": 0.9, "ranking": 1.0},
        description="Share of the time left at the start by which each stage must have answered.",
    )
    quality: QualityConfig = QualityConfig()

    @model_validator(mode="after")
    def _shares_rise(self) -> PipelineConfig:
        shares = [self.finished_by.get(stage, -1.0) for stage in STAGES]
        if set(self.finished_by) != set(STAGES) or shares != sorted(shares) or not 0 < shares[0] <= shares[-1] <= 1:
            raise ValueError(f"finished_by: give {', '.join(STAGES)}, each in (0, 1], none before its predecessor")
        return self


class FetchHistories(Protocol):
    """Fetches what users did: one round trip for the batch. Raises StoreUnavailable. See `history_reader.py`."""

    def __call__(self, pending_requests: Sequence[PendingRequest]) -> Awaitable[HistoryBatch]: ...


class Popular(Protocol):
    """Candidates without any model; `deployments.stages.fallbacks.PopularItems`."""

    model_version: str

    def __call__(self, requests: RequestBatch, profiles: ProfileBatch) -> CandidateBatch: ...


class Pipeline:
    """Answers queries. `places`: one per name in STAGES; `answered`: told of every batch. Belongs to one event loop."""

    def __init__(
        self,
        places: Mapping[str, StageClient],
        histories: FetchHistories,
        popular: Popular,
        cold_profiles: Callable[[RequestBatch], ProfileBatch],
        config: PipelineConfig,
        batching: BatcherConfig,
        metrics: ReplicaMetrics,
        cache: ResultCache | None = None,
        answered: Callable[[BatchState], None] = lambda _: None,
    ) -> None:
        self._places = places
        self._histories = histories
        self._popular = popular
        self._cold_profiles = cold_profiles
        self._config = config
        self._metrics = metrics
        self._cache = cache
        self.stand_in = ""
        """Why the last batch was scored by another backend than configured; empty: it was not."""
        self._answered = answered
        self._queued: dict[object, PendingRequest] = {}
        self._batcher: Batcher[PendingRequest] = Batcher(self._run, batching)
        self._batching = batching
        self._totals = ReplicaStats()
        self._quality, self._pace = QualityFactor(config.quality), ServiceTime()
        most = batching.max_queue + batching.at_once
        self._admission = ConcurrencyLimit(batching.at_once, most, config.quality.middle)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._batcher.waiting

    @property
    def limit(self) -> int:
        """Requests that should be under way at most; see `ConcurrencyLimit`."""
        return self._admission.limit

    def refused(self) -> None:
        """A request was refused, here or before it came."""
        self._totals.add(arrivals=1, shed=1)
        self._metrics.shed()
        self._admission.refused()

    def stats(self) -> dict[str, float]:
        """What the autoscaling policy takes the root arrival rate from: requests that the funnel had to compute."""
        return self._totals.stats(self.waiting, self._batching.in_flight, self._batching.max_batch)

    async def ask(self, query: Query) -> Answer:
        """The answer to `query`, by its deadline. One that asks the same as another in the queue gets that one's.

        Raises:
            Overloaded: the queue is full.
        """
        while (leader := self._queued.get(query.what)) and 0 <= query.deadline - leader.query.deadline <= _JOIN_S:
            try:
                answer = await asyncio.shield(leader.answer)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not leader.answer.cancelled() or (task and task.cancelling()):
                    raise  # our own caller has gone; else the leader's has
                self._left(leader)
            else:
                self._metrics.joined()
                return answer
        pending = PendingRequest(query)
        try:
            self._batcher.put(pending)
        except Overloaded:
            self.refused()
            raise
        self._totals.add(arrivals=1)
        self._queued[query.what] = pending
        spare_s = self._latest(query) - time.time()
        timer = asyncio.get_running_loop().call_later(max(0.0, spare_s), self._answer_late, pending)
        try:
            answer = await pending.answer
            # Cut answers count as lost: what a stage was spared must not look to the policy as if nobody had asked.
            late = time.time() >= self._latest(query) or answer.batch.quality < 1
            self._totals.add(completions=not late, expired=late)
            return answer
        finally:
            timer.cancel()
            self._left(pending)

    def _left(self, pending: PendingRequest) -> None:
        """Nobody can join `pending` any more: what it is answered from is read now."""
        if self._queued.get(pending.query.what) is pending:
            del self._queued[pending.query.what]

    def _latest(self, query: Query) -> float:
        return query.deadline - self._config.reserve_ms / 1e3

    async def _run(self, pending_requests: Sequence[PendingRequest]) -> None:
        now = time.time()
        for pending in pending_requests:
            self._left(pending)
        try:
            requests = request_batch([t.query for t in pending_requests], self._popular.model_version)
            batch = BatchState(list(pending_requests), requests, len(pending_requests), new_batch_id())
            log_context.set(BatchLogContext.of(batch.batch_id, (pending.request for pending in pending_requests)))
            # Against the usual deadline, or a later one: one caller's impatience must not cut the others' answers.
            usual = pending_requests[len(pending_requests) // 2]
            allowed_s = max(self._config.deadline_ms / 1e3, usual.query.deadline - usual.arrived)
            batch.quality = self._quality.update(now, now - usual.arrived, allowed_s)
            self._admission.waited(usual.arrived, now, allowed_s)
            began = time.monotonic()
            if self._too_late(now - usual.arrived, allowed_s, began):
                batch.quality = 0.0
            batch.timings_ms["queue"] = (now - min(t.arrived for t in pending_requests)) * 1e3
            for pending in pending_requests:
                pending.batch = batch
            left_s = self._time_left([self._latest(t.query) - now for t in pending_requests])
            for stage in STAGES:
                batch = batch.drop_answered()
                if not batch.pending_requests:
                    return
                await self._step(batch, stage, now + left_s * self._config.finished_by[stage])
            self._answer(batch)
            if not batch.degraded:
                self._pace.took(began, time.monotonic())
            self._metrics.batch(batch.size, batch.timings_ms)
        except Exception as error:  # a bug of ours: every request still gets its answer
            for pending in pending_requests:
                if not pending.done:
                    pending.answer.set_exception(error)

    def _too_late(self, waited_s: float, allowed_s: float, now: float) -> bool:
        """Whether the batch has waited so long that it would be late, and make those behind it late as well."""
        left_s = allowed_s - waited_s - self._config.reserve_ms / 1e3
        return waited_s > _WAITED * allowed_s and left_s < self._pace.needed_s(now)

    def _time_left(self, left_s: Sequence[float]) -> float:
        """What the batch may take: the least that any of its requests has, so that a patient one does not hold a slot
        for the others; leaving out those much shorter than usual, which are answered by their own timers.
        """
        usual_s = self._config.deadline_ms / 2e3
        return min((left for left in left_s if left >= usual_s), default=max(left_s))

    async def _step(self, batch: BatchState, stage: str, deadline: float) -> None:
        batch.stage = stage
        began = time.perf_counter()
        try:
            await self._call(batch, stage, deadline)
        except StageFailed as failure:
            batch.degraded.append(f"{stage}:{failure.reason}")
            self._fall_back(batch, stage)
        batch.timings_ms[stage] = (time.perf_counter() - began) * 1e3

    async def _call(self, batch: BatchState, stage: str, deadline: float) -> None:
        """The funnel, as drawn: what each stage is given, and where its message is kept."""
        call = self._places[stage].call
        if batch.quality <= 0 and stage != "profile":
            raise StageFailed(stage, "quality", "requests wait too long")
        match stage:
            case "profile":
                histories = await self._fetch(batch, deadline)
                batch.latest_B = histories.latest()
                batch.profiles = await call(deadline, histories)
            case "candidates":
                batch.candidates = await self._candidates(batch, deadline)
            case "scoring":
                await self._score(batch, deadline)
            case "ranking":
                assert batch.candidates is not None
                batch.ranked = await call(deadline, batch.requests, batch.candidates.items_only(), batch.scores)

    async def _score(self, batch: BatchState, deadline: float) -> None:
        """Fills in the scores: the stage's for the rows that the cache had none for."""
        rows = batch.known.missing() if batch.known else range(len(batch.pending_requests))
        if not rows:
            batch.scores = batch.known
            return
        part = batch if len(rows) == len(batch.pending_requests) else batch.only(rows)
        found, whole = part.candidates, not part.degraded
        try:
            self._cut(part)
            part.scores = await self._places["scoring"].call(deadline, part.profiles, part.candidates)
            self._note(part.scores)
        finally:
            if self._cache and found and whole:
                uncut = part.candidates is found
                self._cache.keep(
                    [pending.cached for pending in part.pending_requests], found, part.scores if uncut else None
                )
        if part is not batch:
            batch.put(rows, part)

    def _cut(self, batch: BatchState) -> None:
        """Leaves as many candidates as the batch's quality allows."""
        if batch.quality >= 1:
            return
        if batch.quality < self._config.quality.floor:
            raise StageFailed("scoring", "quality", "requests wait too long")
        assert batch.candidates is not None
        fewer = fallbacks.best(batch.requests, batch.candidates, batch.quality)
        if fewer is not batch.candidates:
            batch.candidates = fewer
            batch.degraded.append("scoring:quality")

    def _note(self, scores: ScoreBatch) -> None:
        if self.stand_in != scores.instead and scores.instead:
            log.warning("scoring: %s", scores.instead)
        self.stand_in = scores.instead
        if scores.instead:
            self._metrics.backend_fallback("scoring", scores.ran_on)

    async def _candidates(self, batch: BatchState, deadline: float) -> CandidateBatch:
        """The stage's for the rows that the cache has nothing for."""
        assert batch.profiles is not None
        call = self._places["candidates"].call
        if self._cache is None:
            found: CandidateBatch = await call(deadline, batch.requests, batch.profiles)
            batch.degraded += fallbacks.partly("candidates", found)
            return found
        cached = [pending.cached for pending in batch.pending_requests]
        hits = {row: entry for row, entry in enumerate(cached) if entry and entry.columns}
        misses = [row for row in range(len(cached)) if row not in hits]
        self._metrics.cached(hits=len(hits), misses=len(misses))
        parts = [self._cache.candidates(list(hits.values()))] if hits else []
        if misses:
            rows = np.array(misses)
            computed: CandidateBatch = await call(deadline, batch.requests.take(rows), batch.profiles.take(rows))
            batch.degraded += fallbacks.partly("candidates", computed)
            parts.append(computed)
        candidates = CandidateBatch.concat(parts).take(np.argsort([*hits, *misses])) if len(parts) > 1 else parts[0]
        batch.known = self._cache.scores(cached, candidates)
        return candidates

    async def _fetch(self, batch: BatchState, deadline: float) -> HistoryBatch:
        try:
            async with timeouts.timeout(deadline - time.time()):
                return await self._histories(batch.pending_requests)
        except (StoreUnavailable, TimeoutError) as error:
            raise StageFailed("profile", "store", str(error)) from error
        except Exception as error:
            log.exception("the store gave histories that can't be read")
            raise StageFailed("profile", "error", f"{type(error).__name__}: {error}") from error

    def _fall_back(self, batch: BatchState, stage: str) -> None:
        """Fills in what `stage` should have given."""
        match stage:
            case "profile":
                batch.profiles = self._cold_profiles(batch.requests)
            case "candidates":
                assert batch.profiles is not None
                batch.candidates = self._popular(batch.requests, batch.profiles)
            case "scoring":
                assert batch.candidates is not None
                batch.scores = fallbacks.retrieval_scores(batch.candidates)
                if batch.known:
                    batch.scores = batch.known.or_else(batch.scores)
            case "ranking":
                assert batch.candidates is not None
                assert batch.scores is not None
                batch.ranked = fallbacks.score_order(batch.requests, batch.candidates, batch.scores)

    def _answer_late(self, pending: PendingRequest) -> None:
        """The deadline has come: answers with what the batch has by now, and fallbacks for the rest."""
        if pending.done:
            return
        late = self._as_late(pending)
        try:
            batch = self._best_by_now(late)
            self._answer(batch)
            self._metrics.expired(batch.stage, len(late))
        except Exception as error:  # a bug of ours; nobody else would answer
            for each in late:
                if not each.done:
                    each.answer.set_exception(error)

    def _as_late(self, pending: PendingRequest) -> list[PendingRequest]:
        """`pending`, and those beside it whose deadline has come, too: a busy event loop finds many, and they cost less
        together."""
        now = time.time()
        if pending.batch:
            beside = [t for t in pending.batch.pending_requests if self._latest(t.query) <= now]
        else:
            beside = list(itertools.takewhile(lambda t: self._latest(t.query) <= now, self._queued.values()))
        return [pending, *(t for t in beside if t is not pending and not t.done)]

    def _best_by_now(self, late: Sequence[PendingRequest]) -> BatchState:
        under_way = late[0].batch
        if under_way is None:
            requests = request_batch([pending.query for pending in late], self._popular.model_version)
            waited_s = time.time() - min(pending.arrived for pending in late)
            batch = BatchState(list(late), requests, len(late), timings_ms={"queue": waited_s * 1e3})
        else:
            batch = under_way.only([row for row, pending in enumerate(under_way.pending_requests) if pending in late])
        batch.degraded.append(f"{batch.stage}:deadline")
        given = {
            "profile": batch.profiles,
            "candidates": batch.candidates,
            "scoring": batch.scores,
            "ranking": batch.ranked,
        }
        for stage in STAGES:
            if given[stage] is None:
                self._fall_back(batch, stage)
        return batch

    def _answer(self, batch: BatchState) -> None:
        assert batch.candidates is not None
        assert batch.scores is not None
        assert batch.ranked is not None
        choice_BN = batch.ranked.choice_BN
        items = at(batch.candidates.item_ids_BK, choice_BN).tolist()
        sources = at(batch.candidates.source_BK, choice_BN).tolist()
        scores = batch.ranked.score_BN.tolist()
        counts = (choice_BN != PAD).sum(axis=1).tolist()
        names = batch.candidates.sources
        for row, (pending, count) in enumerate(zip(batch.pending_requests, counts, strict=True)):
            if pending.done:
                continue
            answer = Answer(
                items=items[row][:count],
                scores=scores[row][:count],
                sources=[names[s] for s in sources[row][:count]],
                degraded=batch.degraded,
                row=row,
                batch=batch,
            )
            pending.answer.set_result(answer)
        self._answered(batch)
        batch.pending_requests = []  # the answers hold the batch: no cycle is left for the garbage collector
