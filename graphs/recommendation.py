"""The online application: build(args) → Ingress over CandidateGenerator, Scorer and Ranker. All Serve wiring is here.

HTTP, handle → Ingress [ validate → batch → profile ] → CandidateGenerator → Scorer → Ranker → answer
"""

import asyncio
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from deployments.errors import ConfigError, StoreUnavailable
from deployments.funnel import FunnelConfig
from deployments.ingress import Ingress, IngressConfig
from deployments.models.artifact import Artifact
from deployments.replica import StageFactory, StageReplica
from deployments.store import RedisStore
from graphs.config import STAGES, RecommenderArgs, parse_args
from graphs.refusal import in_one_sentence


def build(args: dict) -> Application:  # type: ignore[type-arg]
    """The application that serve_config.yaml names; a plain dict, so that what is wrong in it is said in a sentence.

    Raises:
        ConfigError: what the configuration asks for can't work: field, value, remedy.
    """
    with in_one_sentence():
        config = parse_args(RecommenderArgs, args)
        check(config)
    artifact = str(Path(config.artifact).absolute()) if "://" not in config.artifact else config.artifact
    stages = {name: _stage(name, getattr(config.stages, name), artifact) for name in STAGES}
    ingress: Any = serve.deployment(
        Ingress,
        name="Ingress",
        num_replicas=config.ingress.replicas,
        max_ongoing_requests=config.ingress.max_ongoing_requests,
        ray_actor_options={"num_cpus": config.ingress.num_cpus, "num_gpus": config.ingress.num_gpus},
    )
    application: Application = ingress.bind(
        IngressConfig(
            artifact=artifact,
            funnel=FunnelConfig(pipeline=config.pipeline, batcher=config.batcher, store=config.store),
            http=config.http,
            slots={name: getattr(config.stages, name).slots for name in STAGES},
            rule_names=tuple(rule.name for rule in config.stages.ranking.config.rules),
            seed_histories=config.seed_histories,
            threads=_threads(config.ingress.num_cpus),
        ),
        **stages,
    )
    return application


def check(config: RecommenderArgs) -> None:
    """Loads every stage once and calls the store, so that what a replica would trip over is said now.

    Raises:
        ConfigError: the artifact is missing or altered or can't do what is asked, or `redis_url` can't be reached.
    """
    artifact = Artifact.open(config.artifact)
    for name, (_, stage) in STAGES.items():
        stage(artifact, getattr(config.stages, name).config)
    if config.store.redis_url:
        asyncio.run(_reach(RedisStore(config.store)))


async def _reach(store: RedisStore) -> None:
    try:
        await store.ping()
    except StoreUnavailable as error:
        raise ConfigError(f"store.redis_url: {error}; start it, or mend the address") from None
    finally:
        await store.close()


def _stage(name: str, args: Any, artifact: str) -> Any:
    """The stage as a deployment, or as a factory for the ingress to build it."""
    title, stage = STAGES[name]
    factory = StageFactory(stage, args.config)
    if args.placement == "ingress":
        return factory
    deployment: Any = serve.deployment(
        StageReplica,
        name=title,
        num_replicas=args.replicas,
        max_ongoing_requests=args.concurrency * 2,
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": args.num_gpus},
    )
    return deployment.bind(factory, artifact, args.concurrency, _threads(args.num_cpus))


def _threads(num_cpus: float) -> int:
    return max(1, int(num_cpus))
