"""The Ingress deployment: it takes HTTP and handle calls, runs the pipeline, and calls the stage replicas.

Handle callers pass and get plain dicts, so that another application needs none of our code. A bad request raises
ValueError, a request that can't be served now RuntimeError, both with the text of the HTTP response.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.api.access import AccessChain, load_checks
from deployments.api.fast_path.install import replacing_uvicorns
from deployments.api.fast_path.listener import accept_all
from deployments.api.fast_path.routes import FastPath
from deployments.api.http import HttpConfig, make_app
from deployments.artifact.reader import Artifact
from deployments.assembly import FunnelConfig, assemble, seed
from deployments.errors import FunnelError, InvalidRequest
from deployments.models.backends.runtime import freeze_garbage_collector, set_threads
from deployments.pipeline.stage_client import Start, local, scattered
from deployments.replicas.metrics_hub import hub_call
from deployments.replicas.replica_logs import replica_logs
from deployments.replicas.stage_replica import StageFactory, bound_gpu, remote
from deployments.stages.candidates import CandidateConfig
from deployments.stages.oom_guard import OomGuard
from deployments.stages.shards import Gatherer
from deployments.store.redis import RedisStore
from deployments.telemetry.durable_aggregator import MetricsConfig
from monitoring.drift.drift_config import DriftConfig
from monitoring.logs.pseudonyms import Pseudonyms

log = logging.getLogger("rayfunnel.ingress")

DRIFT = "drift"
"""Name of the drift actor, which this deployment owns."""

Dict = dict[str, Any]
Source = DeploymentHandle[Any] | list[DeploymentHandle[Any]] | StageFactory


@dataclass(frozen=True)
class IngressConfig:
    """The configuration of an ingress replica. `slots`: calls in flight per stage."""

    artifact: str
    model_version: str
    """The only one that `artifact` may have; empty: any."""
    funnel: FunnelConfig
    http: HttpConfig
    slots: Mapping[str, int]
    rule_names: tuple[str, ...]
    seed_histories: bool
    threads: int
    cache_scope: str
    candidates: CandidateConfig
    drift: DriftConfig
    metrics: MetricsConfig
    log_key: bytes = field(repr=False)
    """Key of the users' pseudonyms, unless the environment names one."""


@serve.ingress()
class Ingress:
    """`recommend`, `rank`, `similar`, `record_events`: see docs/api.md.

    `hub`: the metrics hub. `stages`: per stage the handle of its replicas, a handle per shard, or a factory that builds
    it in this process.
    """

    def __init__(self, config: IngressConfig, hub: DeploymentHandle[Any], **stages: Source) -> None:
        replica_logs(config.funnel.logs)
        bound_gpu()
        set_threads(config.threads)
        # Kept: while it is open, no training removes its folder.
        self._artifact = artifact = Artifact.open(config.artifact, config.model_version)
        self._store = RedisStore(config.funnel.store)
        self._http = config.http
        starts = _starts(stages, artifact, config)
        replica = serve.get_replica_context().replica_tag
        slots = {**config.slots, "similar": config.slots["candidates"]}
        self._recommender = assemble(
            artifact,
            self._store,
            starts,
            slots,
            config.funnel,
            config.rule_names,
            replica,
            config.cache_scope,
            (config.drift, _call_drift_actor),
            (config.metrics, hub_call(hub)),
            Pseudonyms.of(config.log_key),
        )
        self._access = AccessChain(config.http.cors, load_checks(config.http.checks))
        self._fast_path = FastPath(self._recommender, self._access, config.http.max_body_bytes)
        metrics = self._recommender.replica_metrics
        install = replacing_uvicorns(self._fast_path, metrics.fast_path_off)
        accept_all(asyncio.get_running_loop(), install)  # Serve starts its HTTP server on it later
        self._recommender.reporter.start()
        freeze_garbage_collector()
        self._tasks = [asyncio.ensure_future(self._recommender.readiness.warm_up())]
        if config.seed_histories:
            self._tasks.append(asyncio.ensure_future(seed(self._store, artifact)))
        for task in self._tasks:
            task.add_done_callback(_report)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self._recommender, self._http, self._access, self._fast_path.routes)

    async def recommend(self, request: Dict) -> Dict:
        """The n best items that the user has not seen yet."""
        return await _with_plain_errors(self._recommender.recommend, request)

    async def rank(self, request: Dict) -> Dict:
        """The given items, best first."""
        return await _with_plain_errors(self._recommender.rank, request)

    async def similar(self, request: Dict) -> Dict:
        """Items similar to one item."""
        return await _with_plain_errors(self._recommender.similar, request)

    async def record_events(self, request: Dict) -> Dict:
        """Stores events; returns once the store has them."""
        return await _with_plain_errors(self._recommender.record_events, request)

    async def drift(self) -> Dict:
        """Whether live traffic has drifted: a verdict per signal."""
        return await _with_plain_errors(lambda _: self._recommender.drift(), {})

    async def __del__(self) -> None:
        """Serve calls it before it ends the replica: sends the last metrics."""
        if hasattr(self, "_recommender"):
            await self._recommender.reporter.close()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The counters of this replica. Serve passes them to the autoscaling policy."""
        return self._recommender.stats()


async def _call_drift_actor(method: str, *args: Any) -> Any:
    """Calls the drift actor. It is looked up each time: a killed actor is replaced, and its handle stays dead."""
    actor = await asyncio.to_thread(serve.get_deployment_actor, DRIFT)
    return await getattr(actor, method).remote(*args)


def _starts(stages: Mapping[str, Source], artifact: Artifact, config: IngressConfig) -> dict[str, Start]:
    starts: dict[str, Start] = {}
    for name, source in stages.items():
        slots = config.slots[name]
        if isinstance(source, StageFactory):
            stage, guarded = source.build(artifact), OomGuard(config.funnel.batcher.max_batch).guarded
            starts[name] = local(guarded(stage), slots)
            if name == "candidates":
                starts["similar"] = local(guarded(stage.similar), slots)  # type: ignore[attr-defined]
        elif isinstance(source, list):
            gatherer = Gatherer(artifact, config.candidates)
            calls = [remote(shard.deployment_name, shard) for shard in source]
            starts[name] = scattered(name, calls, gatherer, slots)
            calls = [remote(shard.deployment_name, shard, "similar") for shard in source]
            starts["similar"] = scattered("similar", calls, gatherer.similar, slots)
        else:
            starts[name] = remote(name, source)
            if name == "candidates":
                starts["similar"] = remote("similar", source, "similar")
    return starts


def _report(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("a background task of the ingress failed", exc_info=error)


async def _with_plain_errors(operation: Callable[[Mapping[str, Any]], Awaitable[Dict]], request: Dict) -> Dict:
    try:
        return await operation(request)
    except InvalidRequest as error:
        raise ValueError(str(error)) from None
    except FunnelError as error:
        raise RuntimeError(f"{error.title}: {error}") from None
