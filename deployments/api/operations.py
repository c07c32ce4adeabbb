"""The operations of the API as plain dict → dict methods; HTTP and handles are two doors to the same object.

(Over 300 lines: the operations share what they are counted and logged with.)
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from deployments.api.responses import history, items, reasons
from deployments.api.schemas import EventsRequest, Ranking, RankRequest, RecommendRequest, SimilarRequest, parse
from deployments.artifact.catalogue import Catalogue
from deployments.errors import (
    FunnelError,
    InvalidRequest,
    Overloaded,
    StageFailed,
    StoreUnavailable,
    Unavailable,
    UnknownItem,
)
from deployments.messages import PAD, CandidateBatch
from deployments.pipeline.batch import Answer
from deployments.pipeline.pipeline import Pipeline
from deployments.pipeline.request import Query, arrival, request_batch
from deployments.pipeline.stage_client import StageClient
from deployments.stages.fallbacks import partly
from deployments.store.base import Store
from deployments.store.events import Event
from deployments.telemetry.drift_client import DriftClient
from deployments.telemetry.metrics_reporter import MetricsReporter
from monitoring.logs.context import RequestLogContext, current_request, log_context
from monitoring.logs.request_log import RequestLog
from monitoring.metrics.replica_metrics import ReplicaMetrics

log = logging.getLogger("rayfunnel.service")

_WARM_UP_S = 30.0
"""Deadline of a warm-up request: replicas load their part meanwhile."""

Body = bytes | Mapping[str, Any]
Operation = Callable[["Recommender", Body], Awaitable[dict[str, Any]]]


def _counted(success: int) -> Callable[[Operation], Operation]:
    """Reports the operation's status (`success`, or the error's) and its time to the metrics and to the log.

    The request stays the log context: later lines on its way out carry its ids too.
    """

    def decorate(operation: Operation) -> Operation:
        @functools.wraps(operation)
        async def counted(self: Recommender, body: Body) -> dict[str, Any]:
            began, status = time.perf_counter() - max(0.0, time.time() - arrival()), 500
            failure: BaseException | None = None
            request = RequestLogContext(operation.__name__)
            log_context.set(request)
            try:
                response = await operation(self, body)
                status = success
                return response
            except FunnelError as error:
                status, failure = error.status, error
                raise
            except BaseException as error:
                failure = error
                if isinstance(error, asyncio.CancelledError):
                    status = 499  # as nginx has it: the caller has gone
                raise
            finally:
                seconds = time.perf_counter() - began
                self._metrics.request(operation.__name__, status, seconds)
                self._request_log.ended(request, status, seconds, failure)

        return counted

    return decorate


class Recommender:
    """recommend, rank, similar, record_events: dicts as in the API table of the README.

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
    ) -> None:
        self._pipeline = pipeline
        self._similar = similar
        self.catalogue = catalogue
        self._store = store
        self._deadline_ms = deadline_ms
        self.model_version = model_version
        self._metrics = metrics
        self.reporter = reporter
        self._request_log = request_log
        self._rule_names = rule_names
        self._example_users = example_users
        self._drift_client, self._event_weight = drift_client, event_weight
        self._missing = ["the first answer"]

    @_counted(200)
    async def recommend(self, body: Body) -> dict[str, Any]:
        """The n best items the user has not had yet."""
        request = parse(RecommendRequest, body)
        asked = _asked_by(request.user_id)
        excluded, unknown = self.catalogue.known(request.exclude_ids)
        query = Query(
            user_id=request.user_id,
            n=request.n,
            deadline=self._deadline(request.deadline_ms),
            excluded=excluded,
            unknown=len(unknown),
            filter=self.catalogue.validate(request.filters) if request.filters else None,
            context=request.context or None,
        )
        return self._response(asked, request, await self._pipeline.ask(query))

    @_counted(200)
    async def rank(self, body: Body) -> dict[str, Any]:
        """The given items, best first; those not in the catalogue are listed in `unknown_item_ids`."""
        request = parse(RankRequest, body)
        asked = _asked_by(request.user_id)
        given, unknown = self.catalogue.known(request.item_ids)
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
        return self._response(asked, request, await self._pipeline.ask(query)) | {"unknown_item_ids": unknown}

    @_counted(200)
    async def similar(self, body: Body) -> dict[str, Any]:
        """Items that go with one item, whoever asks."""
        request = parse(SimilarRequest, body)
        asked = _asked_by("")
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
        asked.degraded = partly("similar", found)
        return {
            "request_id": asked.request_id,
            "item_id": request.item_id,
            "items": items(self.catalogue, found.item_ids_BK[0][kept].tolist(), scores, names, request.metadata),
            "model_version": self.model_version,
            "degraded": asked.degraded,
        }

    @property
    def limit(self) -> int:
        """Recommend and rank requests that should be under way at most."""
        return self._pipeline.limit

    def refused(self, operation: str) -> None:
        """A request was refused at the gate."""
        self._pipeline.refused()
        self._metrics.refused(operation)
        self._request_log.ended(RequestLogContext(operation), Overloaded.status, 0.0, Overloaded(self.limit))

    @_counted(202)
    async def record_events(self, body: Body) -> dict[str, Any]:
        """Stores events; returns once the store has them. `unknown_item_ids` are kept, but no model knows them."""
        request = parse(EventsRequest, body)
        _asked_by("").events = len(request.events)
        now = time.time()
        events = [
            Event(
                event_id=e.identity(),
                user_id=e.user_id,
                item_id=e.item_id,
                event_type=e.event_type,
                timestamp=now if e.timestamp is None else e.timestamp,
                request_id=e.request_id or "",
            )
            for e in request.events
        ]
        stored = await self._store.record(events)
        self._follow(events)
        _, unknown = self.catalogue.known(list(dict.fromkeys(e.item_id for e in events)))
        return {"accepted": len(events), "duplicates": len(events) - stored, "unknown_item_ids": unknown}

    async def drift(self) -> dict[str, Any]:
        """Whether live traffic has drifted from what the model was trained for: a verdict per signal."""
        return await self._required_drift_client().report()

    async def drift_page(self, name: str) -> str:
        """The HTML of a deep report that `drift` lists."""
        return await self._required_drift_client().page(name)

    def _required_drift_client(self) -> DriftClient:
        if self._drift_client is None:
            raise Unavailable("drift is not watched; set drift.enabled in the configuration")
        return self._drift_client

    def _follow(self, events: Sequence[Event]) -> None:
        """Tells the drift client of the events that answer a recommendation."""
        answers = [event for event in events if event.request_id]
        if self._drift_client and answers:
            positions = self.catalogue.positions([event.item_id for event in answers]).tolist()
            for event, position in zip(answers, positions, strict=True):
                weight = self._event_weight(event.event_type) if event.weight is None else event.weight
                self._drift_client.event(event.request_id, position, weight)

    async def history(self, user_id: str, n: int = 20) -> list[dict[str, Any]]:
        """The user's last `n` events, newest first, with metadata; for the demo page."""
        events = (await self._store.histories([user_id])).events(0)
        return history(self.catalogue, events[: -n - 1 : -1])

    async def metrics(self) -> bytes:
        """Prometheus' text exposition of the whole application."""
        return await self.reporter.scrape()

    def stats(self) -> dict[str, float]:
        """Totals of the requests that the funnel had to compute, and its queue, for the autoscaling policy."""
        return self._pipeline.stats()

    def example_users(self) -> list[str]:
        """Some user ids known at training time; for the demo page."""
        return list(self._example_users)

    async def warm_up(self) -> None:
        """Sends requests through the funnel until every stage has answered; then `health` says ready."""
        while self._missing:
            try:
                answer = await self._pipeline.ask(Query(user_id="", n=1, deadline=time.time() + _WARM_UP_S))
                self._missing = [reason for reason in answer.degraded if not reason.startswith("profile:store")]
            except Exception as error:
                log.exception("a warm-up request failed")
                self._missing = [str(error)]
            if self._missing:
                await asyncio.sleep(0.2)

    async def health(self) -> dict[str, Any]:
        """`{"status": "ready", …}`, whether the store answers (without it the funnel still serves, degraded), and
        whether scoring runs on the backend that is configured.

        Raises:
            Unavailable: a stage has not answered yet.
        """
        if self._missing:
            raise Unavailable(f"not ready yet; waiting for {', '.join(self._missing)}")
        try:
            await self._store.ping()
            store = "ok"
        except StoreUnavailable as error:
            store = str(error)
        health = {"status": "ready", "model_version": self.model_version, "store": store}
        return health | {"scoring": self._pipeline.stand_in or "as configured"}

    def _deadline(self, deadline_ms: int | None) -> float:
        return arrival() + (deadline_ms or self._deadline_ms) / 1e3

    def _response(self, asked: RequestLogContext, request: Ranking, answer: Answer) -> dict[str, Any]:
        self._metrics.answer(answer.degraded)
        asked.degraded, asked.batch = answer.degraded, answer.batch
        response: dict[str, Any] = {
            "request_id": asked.request_id,
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


def _asked_by(user_id: str) -> RequestLogContext:
    """What is known of the request that is answered here, now that its body is."""
    request = current_request()
    assert request is not None, "operations are wrapped in _counted"
    request.user_id = user_id
    return request
