"""Wires the parts of one process: artifact, store and stages become a `Recommender`. Without Ray.

The ingress does this with stages in other replicas; a test or a notebook with stages in its own process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from deployments.api.operations import Recommender
from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from deployments.errors import StoreUnavailable
from deployments.models.features.schema import Schema
from deployments.models.features.user_features import UserFeatures
from deployments.pipeline.batcher import BatcherConfig
from deployments.pipeline.history_reader import HistoryReader
from deployments.pipeline.overload.concurrency_limit import LimitsConfig
from deployments.pipeline.pipeline import Pipeline
from deployments.pipeline.result_cache import CacheConfig, ResultCache
from deployments.pipeline.stage_client import StageClient, Start
from deployments.pipeline.time_budget import PipelineConfig
from deployments.stages.fallbacks import PopularItems, cold_profiles
from deployments.store.base import Store, StoreConfig
from deployments.store.event_types import EventsConfig
from deployments.store.events import Event
from deployments.store.seeding import seeded_id
from deployments.telemetry.drift_client import DriftCall, DriftClient
from deployments.telemetry.drift_signals import DriftSignals
from deployments.telemetry.durable_aggregator import MetricsConfig
from deployments.telemetry.metrics_reporter import HubCall, MetricsReporter
from monitoring.drift.drift_config import DriftConfig
from monitoring.logs.pseudonyms import Pseudonyms
from monitoring.logs.request_log import RequestLog
from monitoring.logs.setup import LogConfig
from monitoring.metrics.replica_metrics import ReplicaMetrics

log = logging.getLogger("rayfunnel.funnel")

HISTORIES = "histories.parquet"
"""In the artifact: the users' histories at training time (user_id, item_id, timestamp, event_type, weight, event_id;
the last two may be null)."""


class FunnelConfig(BaseModel):
    """The configuration of the parts of one process."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    pipeline: PipelineConfig = PipelineConfig()
    """How a request's time is spent."""
    batcher: BatcherConfig = BatcherConfig()
    """How requests become batches."""
    store: StoreConfig = StoreConfig()
    """Where histories, the cache and the totals of the metrics are kept."""
    events: EventsConfig = EventsConfig()
    """What the types of events mean, to training and to answers."""
    cache: CacheConfig = CacheConfig()
    """What is cached, and for how long."""
    limits: LimitsConfig = LimitsConfig()
    """Requests under way at a time, past which the answer is 503."""
    logs: LogConfig = LogConfig()
    """Which lines every replica logs, and where to."""


def assemble(
    artifact: Artifact,
    store: Store,
    starts: Mapping[str, Start],
    slots: Mapping[str, int],
    config: FunnelConfig,
    rule_names: Sequence[str] = (),
    replica: str = "local",
    cache_scope: str = "",
    drift: tuple[DriftConfig, DriftCall] | None = None,
    hub: tuple[MetricsConfig, HubCall | None] = (MetricsConfig(), None),
    pseudonyms: Pseudonyms | None = None,
) -> Recommender:
    """A recommender over the stages of `starts`.

    Args:
        starts: a function per stage, and for `similar`, that begins a call. slots: calls in flight per stage.
        replica: the name that its metrics carry. cache_scope: a digest of the configuration that candidates depend on.
        drift: its configuration, and a function that calls the drift actor; None: drift is not watched.
        hub: the same for metrics; without a function this process shows its own metrics alone.
        pseudonyms: the names of users in logs and samples.
    """
    pseudonyms = pseudonyms or Pseudonyms.random()
    metrics = ReplicaMetrics(replica)
    catalogue, user_features = Catalogue.load(artifact), UserFeatures(artifact)
    clients = {name: StageClient(name, start, slots[name]) for name, start in starts.items()}

    settings = artifact.manifest.settings
    events = config.events.with_successes(settings.get("success_types", ()))
    events = events.with_repeats(settings.get("repeated_types", ()))

    cache = None
    if config.cache.candidates_ttl_s:
        sources = tuple(spec["name"] for spec in artifact.manifest.settings["sources"])
        cache = ResultCache(store, config.cache, artifact.model_version, cache_scope, sources)

    drift_client = None
    if drift and drift[0].enabled:
        drift_client = DriftClient(
            DriftSignals.load(artifact), drift[1], drift[0], artifact.model_version, replica, metrics, pseudonyms
        )

    pipeline = Pipeline(
        clients=clients,
        histories=HistoryReader(
            store,
            config.store,
            events,
            catalogue,
            user_features,
            artifact.model_version,
            cache,
            Schema.load(artifact).event_types,
        ),
        cache=cache,
        popular=PopularItems(artifact),
        cold_profiles=partial(
            cold_profiles,
            dimension=artifact.manifest.settings["dimension"],
            n_features=len(user_features.names),
        ),
        config=config.pipeline,
        batching=config.batcher,
        metrics=metrics,
        answered=drift_client.answered if drift_client else lambda _: None,
    )
    return Recommender(
        pipeline=pipeline,
        similar=clients["similar"],
        catalogue=catalogue,
        store=store,
        deadline_ms=config.pipeline.deadline_ms,
        model_version=artifact.model_version,
        metrics=metrics,
        reporter=MetricsReporter(metrics, hub[1], hub[0], lambda: pipeline.waiting),
        request_log=RequestLog(config.logs, pseudonyms, artifact.model_version),
        rule_names=rule_names,
        example_users=artifact.manifest.settings["example_users"],
        drift_client=drift_client,
        event_weight=lambda kind: events.of(kind).strength,
        limits=config.limits,
    )


async def seed(store: Store, artifact: Artifact) -> None:
    """Writes the artifact's histories to the store, each event once, whichever artifacts have it; repeats until the
    store takes them."""
    if HISTORIES not in artifact.manifest.files:
        return
    tag = artifact.manifest.files[HISTORIES]
    while True:
        try:
            stored = await store.seed(stored_events(artifact.table(HISTORIES)), tag)
            log.info("the store holds the artifact's histories (%d new events)", stored)
            return
        except StoreUnavailable as error:
            log.warning("the artifact's histories are not in the store yet: %s", error)
            await asyncio.sleep(1.0)


def stored_events(histories: pa.Table) -> Iterator[Event]:
    """The events of HISTORIES. The id of an event without one is made of its timestamp."""
    names = ("user_id", "item_id", "timestamp", "event_type", "weight", "event_id")
    for batch in histories.to_batches(max_chunksize=10_000):
        for user_id, item_id, timestamp, event_type, weight, event_id in zip(
            *(batch.column(name).to_pylist() for name in names), strict=True
        ):
            yield Event(
                event_id=event_id or seeded_id(timestamp),
                user_id=user_id,
                item_id=item_id,
                event_type=event_type,
                timestamp=timestamp,
                weight=weight,
            )
