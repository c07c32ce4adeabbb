"""The operations of the API: recommend, rank, similar, record_events. HTTP and handle calls run the same methods."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deployments.api.instrumentation import RawBody, operation
from deployments.api.readiness import Readiness
from deployments.api.responses import history, items, reasons
from deployments.api.schemas import EventsRequest, Ranking, RankRequest, RecommendRequest, SimilarRequest, parse
from deployments.artifact.catalogue import Catalogue
from deployments.errors import (
    InvalidRequest,
    NotWatched,
    Overloaded,
    StageFailed,
    Unavailable,
    UnknownItem,
)
from deployments.messages import PAD, CandidateBatch
from deployments.pipeline.batch import Answer
from deployments.pipeline.overload.concurrency_limit import ConcurrencyLimit, LimitsConfig
from deployments.pipeline.pipeline import Pipeline
from deployments.pipeline.request import Query, arrival, request_batch
from deployments.pipeline.stage_client import StageClient
from deployments.stages.fallbacks import missing_shards
from deployments.store.base import Store
from deployments.store.events import MOST_AHEAD_S, Event
from deployments.telemetry.drift_client import DriftClient
from deployments.telemetry.metrics_reporter import MetricsReporter
from monitoring.logs.context import RequestLogContext, current_request
from monitoring.logs.request_log import RequestLog
from monitoring.metrics.replica_metrics import ReplicaMetrics


class Recommender:
    """recommend, rank, similar, record_events: dicts as in docs/api.md.

    Raises (each method): InvalidRequest for a bad request, naming the field; Unavailable when it can't be done now.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        similar: StageClient,
        catalogue: Catalogue,
        store: Store,
        deadline_ms: int,
        model_version: str,
        metrics: ReplicaMetrics,
        reporter: MetricsReporter,
        request_log: RequestLog,
        rule_names: Sequence[str] = (),
        example_users: Sequence[str] = (),
        drift_client: DriftClient | None = None,
        event_weight: Callable[[str], float] = lambda _: 0.0,
        limits: LimitsConfig = LimitsConfig(),  # noqa: B008 - frozen
    ) -> None:
        self._pipeline = pipeline
        self._similar = similar
        self.catalogue = catalogue
        self._store = store
        self._deadline_ms = deadline_ms
        self.model_version = model_version
        self.replica_metrics = metrics
        self.reporter = reporter
        self.request_log = request_log
        self._rule_names = rule_names
        self._example_users = example_users
        self._drift_client, self._event_weight = drift_client, event_weight
        ranking = pipeline.limit
        self.limits: Mapping[str, ConcurrencyLimit] = {
            "recommend": ranking,
            "rank": ranking,
            "similar": ConcurrencyLimit(limits.similar, "similar", "similar requests", "raise limits.similar"),
            "record_events": ConcurrencyLimit(limits.events, "events", "event requests", "raise limits.events"),
        }
        self._event_turns = asyncio.Semaphore(limits.events_at_a_time)
        """Many event requests at a time would take the event loop from recommendations (benchmarks/NOTES.md)."""
        self.readiness = Readiness(pipeline, store, model_version)

    @operation(200)
    async def recommend(self, body: RawBody) -> dict[str, Any]:
        """The n best items that the user has not seen yet."""
        request = parse(RecommendRequest, body)
        record = _record_of(request.user_id)
        excluded, unknown = self.catalogue.resolve(request.exclude_ids)
        query = Query(
            user_id=request.user_id,
            n=request.n,
            deadline=self._deadline(request.deadline_ms),
            excluded=excluded,
            unknown=len(unknown),
            filter=self.catalogue.validate(request.filters) if request.filters else None,
            context=request.context or None,
        )
        return self._response(record, request, await self._pipeline.ask(query))

    @operation(200)
    async def rank(self, body: RawBody) -> dict[str, Any]:
        """The given items, best first; those not in the catalogue are listed in `unknown_item_ids`."""
        request = parse(RankRequest, body)
        record = _record_of(request.user_id)
        given, unknown = self.catalogue.resolve(request.item_ids)
        if not len(given):
            raise InvalidRequest([("item_ids", f"none is in the catalogue (first: {unknown[0]!r})")])
        query = Query(
            user_id=request.user_id,
            n=len(given),
            deadline=self._deadline(request.deadline_ms),
            given=given,
            unknown=len(unknown),
            context=request.context or None,
        )
        return self._response(record, request, await self._pipeline.ask(query)) | {"unknown_item_ids": unknown}

    @operation(200)
    async def similar(self, body: RawBody) -> dict[str, Any]:
        """Items similar to one item; the same for every caller."""
        request = parse(SimilarRequest, body)
        record = _record_of("")
        seed = self.catalogue.positions([request.item_id])
        if seed[0] == PAD:
            raise UnknownItem("item_id", request.item_id)
        query = Query(user_id="", n=request.n, deadline=self._deadline(request.deadline_ms), given=seed)
        try:
            found: CandidateBatch = await self._similar.call(query.deadline, request_batch([query], self.model_version))
        except StageFailed as failure:
            raise Unavailable(str(failure)) from failure
        kept = found.mask_BK[0]
        names = [found.sources[s] for s in found.source_BK[0][kept]]
        scores = found.retrieval_scores_BK[0][kept].tolist()
        record.degraded = missing_shards("similar", found)
        self.replica_metrics.answer(record.degraded)
        return {
            "request_id": record.request_id,
            "item_id": request.item_id,
            "items": items(self.catalogue, found.item_ids_BK[0][kept].tolist(), scores, names, request.metadata),
            "model_version": self.model_version,
            "degraded": record.degraded,
        }

    def refuse_unread(self, operation: str, request_id: str) -> Overloaded:
        """Counts and logs a request that the fast path refuses before its body is read; returns the error."""
        error = self.limits[operation].refuse()
        self.count_refusal(operation)
        self.request_log.ended(RequestLogContext(operation, request_id), error.status, 0.0, error)
        return error

    def refused_before_operation(self, operation: str, request_id: str, status: int) -> None:
        """Counts and logs a request that was refused with `status` before any operation saw it."""
        self.replica_metrics.refused(operation, status)
        self.request_log.ended(RequestLogContext(operation, request_id), status, 0.0)

    def count_refusal(self, operation: str) -> None:
        """Counts a request of `operation` that its limit refused."""
        limit = self.limits[operation]
        self.replica_metrics.shed(limit.reason)
        self.replica_metrics.refused(operation, Overloaded.status)
        if limit is self._pipeline.limit:
            self._pipeline.count_refusal()

    @operation(202)
    async def record_events(self, body: RawBody) -> dict[str, Any]:
        """Stores events; returns once the store has them. Events of `unknown_item_ids` are stored, but no model has
        these items."""
        async with self._event_turns:
            return await self._record_events(body)

    async def _record_events(self, body: RawBody) -> dict[str, Any]:
        request = parse(EventsRequest, body)
        _record_of("").events = len(request.events)
        now = time.time()
        events = [
            Event(
                event_id=e.identity(),
                user_id=e.user_id,
                item_id=e.item_id,
                event_type=e.event_type,
                timestamp=now if e.timestamp is None or e.timestamp > now + MOST_AHEAD_S else e.timestamp,
                request_id=e.request_id or "",
            )
            for e in request.events
        ]
        stored = await self._store.record(events)
        self._report_feedback(events)
        _, unknown = self.catalogue.resolve(list(dict.fromkeys(e.item_id for e in events)))
        clamped = sum(e.timestamp is not None and e.timestamp > now + MOST_AHEAD_S for e in request.events)
        return {
            "accepted": len(events),
            "duplicates": len(events) - stored,
            "clamped": clamped,
            "unknown_item_ids": unknown,
        }

    async def drift(self) -> dict[str, Any]:
        """Whether live traffic has drifted from the training data: a verdict per signal."""
        return await self._required_drift_client().report()

    async def drift_page(self, name: str) -> str:
        """The HTML of an Evidently report that `drift` lists."""
        return await self._required_drift_client().page(name)

    def _required_drift_client(self) -> DriftClient:
        if self._drift_client is None:
            raise NotWatched("drift is not watched; set drift.enabled in the configuration")
        return self._drift_client

    def _report_feedback(self, events: Sequence[Event]) -> None:
        """Passes events that follow a recommendation to the drift client."""
        feedback = [event for event in events if event.request_id]
        if self._drift_client and feedback:
            positions = self.catalogue.positions([event.item_id for event in feedback]).tolist()
            for event, position in zip(feedback, positions, strict=True):
                weight = self._event_weight(event.event_type) if event.weight is None else event.weight
                self._drift_client.event(event.request_id, position, weight)

    async def history(self, user_id: str, n: int = 20) -> list[dict[str, Any]]:
        """The user's last `n` events, newest first, with metadata; for the demo page."""
        events = (await self._store.histories([user_id])).events(0)
        return history(self.catalogue, events[: -n - 1 : -1])

    async def health(self) -> dict[str, Any]:
        """See `Readiness.health`."""
        return await self.readiness.health()

    async def metrics(self) -> bytes:
        """Prometheus' text exposition of the whole application."""
        return await self.reporter.scrape()

    def stats(self) -> dict[str, float]:
        """Counters of recommend and rank requests, and the queue's length, for the autoscaling policy."""
        return self._pipeline.stats()

    def example_users(self) -> list[str]:
        """Some user ids of the training data; for the demo page."""
        return list(self._example_users)

    def filter_schema(self) -> dict[str, Any]:
        """What `filters` may hold, as JSON Schema."""
        return self.catalogue.filter_schema()

    def _deadline(self, deadline_ms: int | None) -> float:
        return arrival() + (deadline_ms or self._deadline_ms) / 1e3

    def _response(self, record: RequestLogContext, request: Ranking, answer: Answer) -> dict[str, Any]:
        self.replica_metrics.answer(answer.degraded)
        record.degraded, record.batch = answer.degraded, answer.batch
        response: dict[str, Any] = {
            "request_id": record.request_id,
            "user_id": request.user_id,
            "items": items(self.catalogue, answer.items, answer.scores, answer.sources, request.metadata),
            "model_version": self.model_version,
            "degraded": answer.degraded,
        }
        if self._drift_client:
            self._drift_client.shown(response["request_id"], answer.items, bool(answer.degraded))
        if request.explain:
            for item, reason in zip(response["items"], reasons(answer, self._rule_names), strict=True):
                item["reason"] = reason
            response["timings_ms"] = {stage: round(ms, 3) for stage, ms in answer.batch.timings_ms.items()}
            response["batch_size"] = answer.batch.size
        return response


def _record_of(user_id: str) -> RequestLogContext:
    """The log record of the request that runs here, with its user."""
    request = current_request()
    assert request is not None, "every operation is decorated"
    request.user_id = user_id
    return request
