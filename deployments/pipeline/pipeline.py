"""The funnel: profile → candidates → scoring → ranking, for a batch as a whole, within each request's deadline.

A stage that fails or runs late is replaced by its fallback (stage_fallbacks.py), and the answer says so in `degraded`.
A request whose own deadline comes while its batch is under way is answered at once, with the messages of the stages
that are through and fallbacks for the rest.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from deployments import timeouts
from deployments.errors import StageFailed, StoreUnavailable
from deployments.messages import PAD, HistoryBatch, ProfileBatch, RequestBatch, take_columns
from deployments.pipeline.batch import Answer, BatchState, PendingRequest
from deployments.pipeline.batcher import Batcher, BatcherConfig
from deployments.pipeline.cached_stages import CachedStages
from deployments.pipeline.overload.concurrency_limit import AdaptiveConcurrencyLimit
from deployments.pipeline.overload.late_work import skip_batch
from deployments.pipeline.overload.service_time import ServiceTime
from deployments.pipeline.replica_stats import ReplicaStats
from deployments.pipeline.request import Query, request_batch
from deployments.pipeline.result_cache import ResultCache
from deployments.pipeline.stage_client import StageClient
from deployments.pipeline.stage_fallbacks import Popular, StageFallbacks
from deployments.pipeline.time_budget import STAGES, PipelineConfig, batch_time_s
from monitoring.logs.context import BatchLogContext, log_context, new_batch_id
from monitoring.metrics.replica_metrics import ReplicaMetrics

log = logging.getLogger("rayfunnel.pipeline")

JOIN_WITHIN_S = 0.05
"""An equal request is answered with the one in the queue if its deadline is at most so much later."""


class FetchHistories(Protocol):
    """Fetches the histories of a batch's users in one round trip. Raises StoreUnavailable. See `history_reader.py`."""

    def __call__(self, pending_requests: Sequence[PendingRequest]) -> Awaitable[HistoryBatch]: ...


class Pipeline:
    """Answers queries. `clients`: a client per name in STAGES; `answered`: called with every answered batch. Belongs to
    one event loop.
    """

    def __init__(
        self,
        clients: Mapping[str, StageClient],
        histories: FetchHistories,
        popular: Popular,
        cold_profiles: Callable[[RequestBatch], ProfileBatch],
        config: PipelineConfig,
        batching: BatcherConfig,
        metrics: ReplicaMetrics,
        cache: ResultCache | None = None,
        answered: Callable[[BatchState], None] = lambda _: None,
    ) -> None:
        self._clients = clients
        self._histories = histories
        self._fallbacks = StageFallbacks(popular, cold_profiles)
        self._cached = CachedStages(clients["candidates"].call, clients["scoring"].call, cache, metrics)
        self._config = config
        self._metrics = metrics
        self._answered = answered
        self._queued: dict[object, PendingRequest] = {}
        """The requests in the queue, by everything that their answer depends on."""
        self._batcher: Batcher[PendingRequest] = Batcher(
            self._run, batching.max_batch, batching.in_flight, batching.max_queue, batching.linger_ms / 1e3
        )
        self._batching = batching
        self._stats = ReplicaStats()
        self._service_time = ServiceTime()
        self.limit = AdaptiveConcurrencyLimit(batching.most_in_flight, batching.most_under_way, config.queue_share)
        """Bounds recommend and rank requests under way; whoever calls `ask` for a caller takes a slot of it."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._batcher.waiting

    @property
    def fallback_backend(self) -> str:
        """Why the last batch was scored by another backend than the configured one; empty: it was not."""
        return self._cached.fallback_backend

    def count_refusal(self) -> None:
        """Counts a request that was refused before it could be queued, or by the queue."""
        self._stats.add(arrivals=1, shed=1)

    def stats(self) -> dict[str, float]:
        """For the autoscaling policy: counters of the requests that arrived here, and the queue's length."""
        return self._stats.stats(self.waiting, self._batching.in_flight, self._batching.max_batch)

    async def ask(self, query: Query) -> Answer:
        """The answer to `query`, by its deadline. An equal query in the queue shares its answer.

        Raises:
            Overloaded: the queue is full.
        """
        while (
            leader := self._queued.get(query.identity)
        ) and 0 <= query.deadline - leader.query.deadline <= JOIN_WITHIN_S:
            try:
                answer = await asyncio.shield(leader.answer)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not leader.answer.cancelled() or (task and task.cancelling()):
                    raise  # our own caller has gone
                self._forget(leader)  # the leader's caller has gone
            else:
                self._metrics.joined()
                return answer
        pending = PendingRequest(query)
        self._batcher.put(pending)
        self._stats.add(arrivals=1)
        self._queued[query.identity] = pending
        left_s = self._latest(query) - time.time()
        timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._answer_late, pending)
        try:
            answer = await pending.answer
            # Count degraded answers as lost demand; otherwise the autoscaler reads skipped work as low traffic.
            late = time.time() >= self._latest(query) or answer.batch.skipped
            self._stats.add(completions=not late, expired=late)
            return answer
        finally:
            timer.cancel()
            self._forget(pending)

    def _forget(self, pending: PendingRequest) -> None:
        """No later request may share the answer of `pending`: its history is read now."""
        if self._queued.get(pending.query.identity) is pending:
            del self._queued[pending.query.identity]

    def _latest(self, query: Query) -> float:
        return query.deadline - self._config.reserve_ms / 1e3

    async def _run(self, pending_requests: Sequence[PendingRequest]) -> None:
        """Answers one batch."""
        now = time.time()
        for pending in pending_requests:
            self._forget(pending)
        try:
            requests = request_batch([p.query for p in pending_requests], self._fallbacks.model_version)
            batch = BatchState(list(pending_requests), requests, len(pending_requests), new_batch_id())
            log_context.set(BatchLogContext.of(batch.batch_id, (pending.request for pending in pending_requests)))
            began = time.monotonic()
            batch.skipped = self._leaves_too_late(pending_requests, now, began)
            batch.timings_ms["queue"] = (now - min(p.arrived for p in pending_requests)) * 1e3
            for pending in pending_requests:
                pending.batch = batch
            left_s = batch_time_s(
                [self._latest(p.query) - now for p in pending_requests], self._config.deadline_ms / 2e3
            )
            for stage in STAGES:
                batch = batch.drop_answered()
                if not batch.pending_requests:
                    return
                await self._step(batch, stage, now + left_s * self._config.finished_by[stage])
            self._answer(batch)
            if not batch.degraded:
                self._service_time.observe(began, time.monotonic())
            self._metrics.batch(batch.size, batch.timings_ms)
        except Exception as error:  # a bug of ours: every request still gets an answer
            for pending in pending_requests:
                if not pending.done:
                    pending.answer.set_exception(error)

    def _leaves_too_late(self, pending_requests: Sequence[PendingRequest], now: float, began: float) -> bool:
        """Whether a batch that leaves the queue now is skipped, from the wait of its middle request, which the limit on
        requests under way follows too."""
        middle = pending_requests[len(pending_requests) // 2]
        waited_s = now - middle.arrived
        # At least the configured deadline: one request with a short deadline must not degrade the others.
        allowed_s = max(self._config.deadline_ms / 1e3, middle.query.deadline - middle.arrived)
        self.limit.observe_wait(middle.arrived, now, allowed_s)
        return skip_batch(waited_s, allowed_s, self._config.reserve_ms / 1e3, self._service_time, began)

    async def _step(self, batch: BatchState, stage: str, deadline: float) -> None:
        batch.stage = stage
        began = time.perf_counter()
        try:
            await self._call(batch, stage, deadline)
        except StageFailed as failure:
            batch.degraded.append(f"{stage}:{failure.reason}")
            self._fallbacks.replace(batch, stage)
        batch.timings_ms[stage] = (time.perf_counter() - began) * 1e3

    async def _call(self, batch: BatchState, stage: str, deadline: float) -> None:
        """The funnel as drawn: the messages that each stage gets, and where its own message is kept."""
        if batch.skipped and stage != "profile":
            raise StageFailed(stage, "late", "the batch left the queue too late to be answered in time")
        match stage:
            case "profile":
                histories = await self._fetch_histories(batch, deadline)
                batch.latest_B = histories.last_event_times()
                batch.profiles = await self._clients["profile"].call(deadline, histories)
            case "candidates":
                await self._cached.find_candidates(batch, deadline)
            case "scoring":
                await self._cached.score(batch, deadline)
            case "ranking":
                assert batch.candidates is not None
                call = self._clients["ranking"].call
                batch.ranked = await call(deadline, batch.requests, batch.candidates.items_only(), batch.scores)

    async def _fetch_histories(self, batch: BatchState, deadline: float) -> HistoryBatch:
        try:
            async with timeouts.timeout(deadline - time.time()):
                return await self._histories(batch.pending_requests)
        except (StoreUnavailable, TimeoutError) as error:
            raise StageFailed("profile", "store", str(error)) from error
        except Exception as error:
            log.exception("the store returned histories that can't be read")
            raise StageFailed("profile", "error", f"{type(error).__name__}: {error}") from error

    def _answer_late(self, pending: PendingRequest) -> None:
        """The deadline of `pending` has come: answers with what its batch has by now, and fallbacks for the rest."""
        if pending.done:
            return
        late = self._late_with(pending)
        try:
            batch = self._part_of(late)
            batch.degraded.append(f"{batch.stage}:deadline")
            self._fallbacks.complete(batch)
            self._answer(batch)
            self._metrics.expired(batch.stage, len(late))
        except Exception as error:  # a bug of ours; no one else answers these requests
            for each in late:
                if not each.done:
                    each.answer.set_exception(error)

    def _late_with(self, pending: PendingRequest) -> list[PendingRequest]:
        """`pending` and the requests beside it whose deadline has come too: a busy event loop finds many at once, and
        they cost less together.
        """
        now = time.time()
        if pending.batch:
            beside = [p for p in pending.batch.pending_requests if self._latest(p.query) <= now]
        else:
            beside = list(itertools.takewhile(lambda p: self._latest(p.query) <= now, self._queued.values()))
        return [pending, *(p for p in beside if p is not pending and not p.done)]

    def _part_of(self, late: Sequence[PendingRequest]) -> BatchState:
        """The rows of `late` in their batch; a new batch if they are still in the queue."""
        under_way = late[0].batch
        if under_way:
            return under_way.only([row for row, p in enumerate(under_way.pending_requests) if p in late])
        requests = request_batch([pending.query for pending in late], self._fallbacks.model_version)
        waited_s = time.time() - min(pending.arrived for pending in late)
        return BatchState(list(late), requests, len(late), timings_ms={"queue": waited_s * 1e3})

    def _answer(self, batch: BatchState) -> None:
        """Gives every request of `batch` its answer."""
        assert batch.candidates is not None
        assert batch.scores is not None
        assert batch.ranked is not None
        choice_BN = batch.ranked.choice_BN
        items = take_columns(batch.candidates.item_ids_BK, choice_BN).tolist()
        sources = take_columns(batch.candidates.source_BK, choice_BN).tolist()
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
        batch.pending_requests = []  # the answers hold the batch: without a cycle it is freed at once
