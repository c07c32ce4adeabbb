"""The recommender in one process: the same artifact, stages, pipeline and store as served, without any server."""

from __future__ import annotations

import faiss
import torch

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from deployments.assembly import FunnelConfig, assemble
from deployments.pipeline.batcher import BatcherConfig
from deployments.pipeline.stage_client import local
from deployments.store.redis import RedisStore
from graphs.config import STAGES, RecommenderArgs
from graphs.config_file import load, recommender_args


def build(config_path: str, batching: BatcherConfig) -> Recommender:
    """Builds the recommender of the config file at `config_path`; every stage runs in this process."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    config: RecommenderArgs = recommender_args(load(config_path))
    artifact = Artifact.open(config.artifact)
    stages = {name: cls(artifact, getattr(config.stages, name).config) for name, (_, cls) in STAGES.items()}
    starts = {name: local(stage, 4) for name, stage in stages.items()}
    starts["similar"] = local(stages["candidates"].similar, 4)
    funnel = FunnelConfig(pipeline=config.pipeline, batcher=batching, store=config.store, cache=config.cache)
    return assemble(artifact, RedisStore(config.store), starts, dict.fromkeys(starts, 4), funnel)
