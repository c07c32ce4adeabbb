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
from monitoring.logs.ecs import bound
from monitoring.logs.request_log import BatchRecord, new_batch_id
from monitoring.metrics.replica_metrics import FunnelMetrics

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

    def __call__(self, tickets: Sequence[PendingRequest]) -> Awaitable[HistoryBatch]: ...


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
        metrics: FunnelMetrics,
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
        ticket = PendingRequest(query)
        try:
            self._batcher.put(ticket)
        except Overloaded:
            self.refused()
            raise
        self._totals.add(arrivals=1)
        self._queued[query.what] = ticket
        spare_s = self._latest(query) - time.time()
        timer = asyncio.get_running_loop().call_later(max(0.0, spare_s), self._answer_late, ticket)
        try:
            answer = await ticket.answer
            # Cut answers count as lost: what a stage was spared must not look to the policy as if nobody had asked.
            late = time.time() >= self._latest(query) or answer.flow.quality < 1
            self._totals.add(completions=not late, expired=late)
            return answer
        finally:
            timer.cancel()
            self._left(ticket)

    def _left(self, ticket: PendingRequest) -> None:
        """Nobody can join `ticket` any more: what it is answered from is read now."""
        if self._queued.get(ticket.query.what) is ticket:
            del self._queued[ticket.query.what]

    def _latest(self, query: Query) -> float:
        return query.deadline - self._config.reserve_ms / 1e3

    async def _run(self, tickets: Sequence[PendingRequest]) -> None:
        now = time.time()
        for ticket in tickets:
            self._left(ticket)
        try:
            requests = request_batch([t.query for t in tickets], self._popular.model_version)
            flow = BatchState(list(tickets), requests, len(tickets), new_batch_id())
            bound.set(BatchRecord.of(flow.batch_id, (ticket.request for ticket in tickets)))
            # Against the usual deadline, or a later one: one caller's impatience must not cut the others' answers.
            usual = tickets[len(tickets) // 2]
            allowed_s = max(self._config.deadline_ms / 1e3, usual.query.deadline - usual.arrived)
            flow.quality = self._quality.update(now, now - usual.arrived, allowed_s)
            self._admission.waited(usual.arrived, now, allowed_s)
            began = time.monotonic()
            if self._too_late(now - usual.arrived, allowed_s, began):
                flow.quality = 0.0
            flow.timings_ms["queue"] = (now - min(t.arrived for t in tickets)) * 1e3
            for ticket in tickets:
                ticket.flow = flow
            left_s = self._time_left([self._latest(t.query) - now for t in tickets])
            for stage in STAGES:
                flow = flow.drop_answered()
                if not flow.tickets:
                    return
                await self._step(flow, stage, now + left_s * self._config.finished_by[stage])
            self._answer(flow)
            if not flow.degraded:
                self._pace.took(began, time.monotonic())
            self._metrics.batch(flow.size, flow.timings_ms)
        except Exception as error:  # a bug of ours: every request still gets its answer
            for ticket in tickets:
                if not ticket.done:
                    ticket.answer.set_exception(error)

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

    async def _step(self, flow: BatchState, stage: str, deadline: float) -> None:
        flow.stage = stage
        began = time.perf_counter()
        try:
            await self._call(flow, stage, deadline)
        except StageFailed as failure:
            flow.degraded.append(f"{stage}:{failure.reason}")
            self._fall_back(flow, stage)
        flow.timings_ms[stage] = (time.perf_counter() - began) * 1e3

    async def _call(self, flow: BatchState, stage: str, deadline: float) -> None:
        """The funnel, as drawn: what each stage is given, and where its message is kept."""
        call = self._places[stage].call
        if flow.quality <= 0 and stage != "profile":
            raise StageFailed(stage, "quality", "requests wait too long")
        match stage:
            case "profile":
                histories = await self._fetch(flow, deadline)
                flow.latest_B = histories.latest()
                flow.profiles = await call(deadline, histories)
            case "candidates":
                flow.candidates = await self._candidates(flow, deadline)
            case "scoring":
                await self._score(flow, deadline)
            case "ranking":
                assert flow.candidates is not None
                flow.ranked = await call(deadline, flow.requests, flow.candidates.items_only(), flow.scores)

    async def _score(self, flow: BatchState, deadline: float) -> None:
        """Fills in the scores: the stage's for the rows that the cache had none for."""
        rows = flow.known.missing() if flow.known else range(len(flow.tickets))
        if not rows:
            flow.scores = flow.known
            return
        part = flow if len(rows) == len(flow.tickets) else flow.only(rows)
        found, whole = part.candidates, not part.degraded
        try:
            self._cut(part)
            part.scores = await self._places["scoring"].call(deadline, part.profiles, part.candidates)
            self._note(part.scores)
        finally:
            if self._cache and found and whole:
                uncut = part.candidates is found
                self._cache.keep([ticket.cached for ticket in part.tickets], found, part.scores if uncut else None)
        if part is not flow:
            flow.put(rows, part)

    def _cut(self, flow: BatchState) -> None:
        """Leaves as many candidates as the batch's quality allows."""
        if flow.quality >= 1:
            return
        if flow.quality < self._config.quality.floor:
            raise StageFailed("scoring", "quality", "requests wait too long")
        assert flow.candidates is not None
        fewer = fallbacks.best(flow.requests, flow.candidates, flow.quality)
        if fewer is not flow.candidates:
            flow.candidates = fewer
            flow.degraded.append("scoring:quality")

    def _note(self, scores: ScoreBatch) -> None:
        if self.stand_in != scores.instead and scores.instead:
            log.warning("scoring: %s", scores.instead)
        self.stand_in = scores.instead
        if scores.instead:
            self._metrics.stood_in("scoring", scores.ran_on)

    async def _candidates(self, flow: BatchState, deadline: float) -> CandidateBatch:
        """The stage's for the rows that the cache has nothing for."""
        assert flow.profiles is not None
        call = self._places["candidates"].call
        if self._cache is None:
            found: CandidateBatch = await call(deadline, flow.requests, flow.profiles)
            flow.degraded += fallbacks.partly("candidates", found)
            return found
        cached = [ticket.cached for ticket in flow.tickets]
        hits = {row: entry for row, entry in enumerate(cached) if entry and entry.columns}
        misses = [row for row in range(len(cached)) if row not in hits]
        self._metrics.cached(hits=len(hits), misses=len(misses))
        parts = [self._cache.candidates(list(hits.values()))] if hits else []
        if misses:
            rows = np.array(misses)
            computed: CandidateBatch = await call(deadline, flow.requests.take(rows), flow.profiles.take(rows))
            flow.degraded += fallbacks.partly("candidates", computed)
            parts.append(computed)
        candidates = CandidateBatch.concat(parts).take(np.argsort([*hits, *misses])) if len(parts) > 1 else parts[0]
        flow.known = self._cache.scores(cached, candidates)
        return candidates

    async def _fetch(self, flow: BatchState, deadline: float) -> HistoryBatch:
        try:
            async with timeouts.timeout(deadline - time.time()):
                return await self._histories(flow.tickets)
        except (StoreUnavailable, TimeoutError) as error:
            raise StageFailed("profile", "store", str(error)) from error
        except Exception as error:
            log.exception("the store gave histories that can't be read")
            raise StageFailed("profile", "error", f"{type(error).__name__}: {error}") from error

    def _fall_back(self, flow: BatchState, stage: str) -> None:
        """Fills in what `stage` should have given."""
        match stage:
            case "profile":
                flow.profiles = self._cold_profiles(flow.requests)
            case "candidates":
                assert flow.profiles is not None
                flow.candidates = self._popular(flow.requests, flow.profiles)
            case "scoring":
                assert flow.candidates is not None
                flow.scores = fallbacks.retrieval_scores(flow.candidates)
                if flow.known:
                    flow.scores = flow.known.or_else(flow.scores)
            case "ranking":
                assert flow.candidates is not None
                assert flow.scores is not None
                flow.ranked = fallbacks.score_order(flow.requests, flow.candidates, flow.scores)

    def _answer_late(self, ticket: PendingRequest) -> None:
        """The deadline has come: answers with what the batch has by now, and fallbacks for the rest."""
        if ticket.done:
            return
        late = self._as_late(ticket)
        try:
            flow = self._best_by_now(late)
            self._answer(flow)
            self._metrics.expired(flow.stage, len(late))
        except Exception as error:  # a bug of ours; nobody else would answer
            for each in late:
                if not each.done:
                    each.answer.set_exception(error)

    def _as_late(self, ticket: PendingRequest) -> list[PendingRequest]:
        """`ticket`, and those beside it whose deadline has come, too: a busy event loop finds many, and they cost less
        together."""
        now = time.time()
        if ticket.flow:
            beside = [t for t in ticket.flow.tickets if self._latest(t.query) <= now]
        else:
            beside = list(itertools.takewhile(lambda t: self._latest(t.query) <= now, self._queued.values()))
        return [ticket, *(t for t in beside if t is not ticket and not t.done)]

    def _best_by_now(self, late: Sequence[PendingRequest]) -> BatchState:
        under_way = late[0].flow
        if under_way is None:
            requests = request_batch([ticket.query for ticket in late], self._popular.model_version)
            waited_s = time.time() - min(ticket.arrived for ticket in late)
            flow = BatchState(list(late), requests, len(late), timings_ms={"queue": waited_s * 1e3})
        else:
            flow = under_way.only([row for row, ticket in enumerate(under_way.tickets) if ticket in late])
        flow.degraded.append(f"{flow.stage}:deadline")
        given = {
            "profile": flow.profiles,
            "candidates": flow.candidates,
            "scoring": flow.scores,
            "ranking": flow.ranked,
        }
        for stage in STAGES:
            if given[stage] is None:
                self._fall_back(flow, stage)
        return flow

    def _answer(self, flow: BatchState) -> None:
        assert flow.candidates is not None
        assert flow.scores is not None
        assert flow.ranked is not None
        choice_BN = flow.ranked.choice_BN
        items = at(flow.candidates.item_ids_BK, choice_BN).tolist()
        sources = at(flow.candidates.source_BK, choice_BN).tolist()
        scores = flow.ranked.score_BN.tolist()
        counts = (choice_BN != PAD).sum(axis=1).tolist()
        names = flow.candidates.sources
        for row, (ticket, count) in enumerate(zip(flow.tickets, counts, strict=True)):
            if ticket.done:
                continue
            answer = Answer(
                items=items[row][:count],
                scores=scores[row][:count],
                sources=[names[s] for s in sources[row][:count]],
                degraded=flow.degraded,
                row=row,
                flow=flow,
            )
            ticket.answer.set_result(answer)
        self._answered(flow)
        flow.tickets = []  # the answers hold the flow: no cycle is left for the garbage collector
