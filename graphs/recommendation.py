"""The online application: build(args) → Ingress over CandidateGenerator, Scorer and Ranker. All Serve wiring is here.

HTTP, handle → Ingress [ validate → batch → profile ] → CandidateGenerator → Scorer → Ranker → answer
"""

import asyncio
import hashlib
import secrets
import warnings
from typing import Any

import ray
from pydantic import BaseModel
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, DeploymentActorConfig, RequestRouterConfig

from deployments.api.access import load_checks
from deployments.artifact.reader import Artifact, is_remote, local_folder
from deployments.assembly import FunnelConfig
from deployments.errors import ArtifactError, ConfigError, Overloaded, StoreUnavailable
from deployments.replicas.drift_actor import DriftActor
from deployments.replicas.ingress import DRIFT, Ingress, IngressConfig
from deployments.replicas.metrics_hub import MetricsHub
from deployments.replicas.stage_replica import StageFactory, StageReplica
from deployments.stages.shards import CandidateShard, ShardConfig
from deployments.store.redis import RedisStore
from graphs.builder_errors import in_one_sentence
from graphs.config import STAGES, IngressArgs, RecommenderArgs, StageArgs, parse_args
from monitoring.drift.reference import BASIS_FILE

ROUTER = RequestRouterConfig(request_router_class="deployments.replicas.router:LeastOutstanding")  # type: ignore[arg-type]
INGRESS_METRICS_S, STAGE_METRICS_S = 0.25, 0.5
"""Seconds between two reports of a replica to the autoscaling policy. The ingress reports show a rise of load first."""


def build(args: dict) -> Application:  # type: ignore[type-arg]
    """The application that serve_config.yaml names. `args` is a plain dict, so that errors in it become one sentence.

    Raises:
        ConfigError: the configuration can't work; with field, value, remedy.
    """
    with in_one_sentence():
        config = parse_args(RecommenderArgs, args)
        check(config)
    # Resolves the link once: replicas that start after a retraining still load the model of their deployment.
    artifact = config.artifact if is_remote(config.artifact) else str(local_folder(config.artifact))
    hub = _hub(config)
    replicas = config.ingress.replicas
    stages = {name: _stage(name, config, artifact, hub) for name in STAGES}
    if config.stages.candidates.shards > 1:
        stages["candidates"] = _shards(config, artifact, hub)
    ingress: Any = serve.deployment(
        Ingress,
        name="Ingress",
        **_replicas(replicas, replicas, replicas, _autoscaled(config), INGRESS_METRICS_S),
        max_ongoing_requests=config.most_ongoing,
        max_queued_requests=config.most_ongoing,  # one turn of the event loop may bring so many
        backpressure_config={"retry_after_s": Overloaded.retry_after_s},
        max_surge_percent=100,  # a redeploy starts the new replicas before it stops the old ones
        ray_actor_options=_actor(config.ingress),
        deployment_actors=_drift(config, artifact),
    )
    application: Application = ingress.bind(
        IngressConfig(
            artifact=artifact,
            model_version=config.model_version,
            funnel=FunnelConfig(
                pipeline=config.pipeline,
                batcher=config.batcher,
                store=config.store,
                events=config.events,
                cache=config.cache,
                limits=config.limits,
                logs=config.logs,
            ),
            http=config.http,
            slots={name: getattr(config.stages, name).slots for name in STAGES},
            rule_names=tuple(rule.name for rule in config.stages.ranking.config.rules),
            seed_histories=config.seed_histories,
            threads=_threads(config.ingress.num_cpus),
            cache_scope=_cache_scope(config),
            candidates=config.stages.candidates.config,
            drift=config.drift,
            metrics=config.metrics,
            log_key=secrets.token_bytes(32),
        ),
        hub=hub,
        **stages,
    )
    return application


def _hub(config: RecommenderArgs) -> Any:
    """The deployment that adds up the counters of all replicas. A new one takes the totals over from the store, so that
    it may start beside the old one.
    """
    deployment: Any = serve.deployment(
        MetricsHub,
        name="MetricsHub",
        num_replicas=1,
        max_ongoing_requests=1000,  # calls of a few bytes and milliseconds, from every replica
        max_surge_percent=100,
        health_check_period_s=2,
        health_check_timeout_s=10,
        ray_actor_options=_actor(config.ingress) | {"num_cpus": 0, "num_gpus": 0},
    )
    return deployment.bind(config.metrics, config.store, config.logs)


def _drift(config: RecommenderArgs, artifact: str) -> list[dict[Any, Any] | DeploymentActorConfig]:
    """The actor of the Ingress that computes drift verdicts. Serve's controller replaces it if it dies."""
    if not config.drift.enabled:
        return []
    actor = DeploymentActorConfig(
        name=DRIFT,
        actor_class=ray.remote(DriftActor),
        # Plain values: handles of other applications read them too, without our classes.
        init_args=(
            artifact,
            config.model_version,
            config.drift.model_dump(mode="json"),
            config.logs.model_dump(mode="json"),
        ),
        # The labels of the Ingress: with 0 CPUs the actor could else run on a head node without replicas.
        actor_options=_actor(config.ingress) | {"num_cpus": 0, "num_gpus": 0},
    )
    return [actor]


def _cache_scope(config: RecommenderArgs) -> str:
    """Digest of the settings on which the candidates of a user and their scores depend, beside the model."""
    stages = config.stages
    parts: list[BaseModel] = [
        config.store,
        config.events,
        *(s.config for s in (stages.profile, stages.candidates, stages.scoring)),
    ]
    return hashlib.blake2b("\n".join(part.model_dump_json() for part in parts).encode(), digest_size=8).hexdigest()


def check(config: RecommenderArgs) -> Artifact:
    """Loads every stage once and calls the store, so that an error appears before a replica starts. Returns the
    artifact.

    Raises:
        ConfigError: the artifact is missing, altered or unfit for the configuration, or `redis_url` can't be reached.
    """
    load_checks(config.http.checks)
    artifact = Artifact.open(config.artifact, config.model_version)
    for name, (_, stage) in STAGES.items():
        own = getattr(config.stages, name).config
        stage(artifact, own.model_copy(update={"device": "cpu"}) if name == "scoring" else own)
    if config.drift.enabled and BASIS_FILE not in artifact.manifest.files:
        raise ArtifactError(
            f"artifact {config.artifact} has no {BASIS_FILE}; train it again, or set drift.enabled: false"
        )
    if config.store.redis_url:
        asyncio.run(_reach(RedisStore(config.store.model_copy(update={"timeout_ms": 5000}))))
    return artifact


async def _reach(store: RedisStore) -> None:
    try:
        await store.ping()
    except StoreUnavailable as error:
        raise ConfigError(f"store.redis_url: {error}; start it, or mend the address") from None
    finally:
        await store.close()


def _stage(name: str, config: RecommenderArgs, artifact: str, hub: Any) -> Any:
    """The stage as a deployment, or as a factory for the ingress to build it."""
    title, stage = STAGES[name]
    args = getattr(config.stages, name)
    factory = StageFactory(stage, args.config, config.logs)
    if args.placement == "ingress":
        return factory
    return _deployment(title, factory, args, artifact, config, hub)


def _shards(config: RecommenderArgs, artifact: str, hub: Any) -> list[Any]:
    """One deployment per part of the catalogue."""
    shards, args = [], config.stages.candidates
    for shard in range(args.shards):
        part = ShardConfig(n_candidates=args.config.n_candidates, shard=shard, shards=args.shards)
        name = f"{STAGES['candidates'][0]}-{shard + 1}of{args.shards}"
        factory = StageFactory(CandidateShard, part, config.logs)
        shards.append(_deployment(name, factory, args, artifact, config, hub))
    return shards


def _deployment(
    name: str, factory: StageFactory, args: StageArgs, artifact: str, config: RecommenderArgs, hub: Any
) -> Any:
    deployment: Any = serve.deployment(
        StageReplica,
        name=name,
        **_replicas(args.replicas, args.min_replicas, args.max_replicas, args.max_replicas > 0, STAGE_METRICS_S),
        max_ongoing_requests=2 * args.slots * config.ingress.replicas,
        max_surge_percent=100,
        request_router_config=ROUTER,
        ray_actor_options=_actor(args),
    )
    threads = _threads(args.num_cpus)
    return deployment.bind(
        factory, artifact, config.model_version, args.concurrency, args.max_rows, threads, config.metrics, hub
    )


def _actor(args: IngressArgs | StageArgs) -> dict[str, Any]:
    """Ray's options of a replica: its CPUs and GPUs, and the nodes that it may run on."""
    options: dict[str, Any] = {"num_cpus": args.num_cpus, "num_gpus": args.num_gpus}
    return options | ({"label_selector": args.node_labels} if args.node_labels else {})


def _autoscaled(config: RecommenderArgs) -> bool:
    return any(getattr(config.stages, name).max_replicas for name in STAGES)


def _replicas(start: int, least: int, most: int, autoscaled: bool, metrics_s: float) -> dict[str, Any]:
    """A fixed number, or bounds for the autoscaling policy. Only deployments with bounds report to the policy, so the
    ingress has bounds, too. Serve's own delays and factors after the policy are off.
    """
    if not autoscaled:
        return {"num_replicas": start}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray 2.60 does not read the variables that replace it
        bounds = AutoscalingConfig(
            min_replicas=least,
            initial_replicas=start,
            max_replicas=most,
            metrics_interval_s=metrics_s,
            look_back_period_s=4 * metrics_s,
            upscale_delay_s=0,
            downscale_delay_s=0,
            upscaling_factor=1,
            downscaling_factor=1,
        )
    return {"autoscaling_config": bounds}


def _threads(num_cpus: float) -> int:
    return max(1, int(num_cpus))
