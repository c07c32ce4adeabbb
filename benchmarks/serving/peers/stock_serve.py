"""Stock Ray Serve: a model composition as its documentation writes one, a request per hop, no flags.

RAYFUNNEL_BENCH_CONFIG=CONFIG serve run benchmarks.serving.peers.stock_serve:app
"""

import os
import time
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.api.schemas import RecommendRequest, parse
from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from deployments.messages import Batch
from deployments.models.features.schema import Schema
from deployments.models.features.user_features import UserFeatures
from deployments.pipeline.batch import PendingRequest
from deployments.pipeline.history_reader import HistoryReader
from deployments.pipeline.request import Query, request_batch
from deployments.pipeline.result_cache import CacheConfig
from deployments.stages.profile import Profiles
from deployments.store.redis import RedisStore
from graphs.config import STAGES, RecommenderArgs
from graphs.config_file import load, recommender_args

api = FastAPI()
CONFIG: RecommenderArgs = recommender_args(load(os.environ["RAYFUNNEL_BENCH_CONFIG"]))
assert CacheConfig() == CONFIG.cache, "stock Serve has no cache to compare with"


class StageDeployment:
    """A stage's class behind a deployment."""

    def __init__(self, name: str, config: RecommenderArgs) -> None:
        import torch

        torch.set_num_threads(1)
        self._stage = STAGES[name][1](Artifact.open(config.artifact), getattr(config.stages, name).config)

    def __call__(self, *batches: Batch) -> Batch:
        result: Batch = self._stage(*batches)
        return result


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.3})
@serve.ingress(api)
class Api:
    """Calls one stage after the other for each request."""

    def __init__(self, config: RecommenderArgs, **stages: DeploymentHandle[Any]) -> None:
        artifact = Artifact.open(config.artifact)
        self._version = artifact.model_version
        self._catalogue = Catalogue.load(artifact)
        self._profiles = Profiles(artifact, config.stages.profile.config)
        self._read = HistoryReader(
            RedisStore(config.store),
            config.store,
            config.events,
            self._catalogue,
            UserFeatures(artifact),
            self._version,
            None,
            Schema.load(artifact).event_types,
        )
        self._stages = stages

    @api.get("/v1/health/ready")
    def ready(self) -> dict[str, str]:
        """Answers once the replica runs."""
        return {"status": "ready"}

    @api.post("/v1/recommend")
    async def recommend(self, request: Request) -> Response:
        """The n best items."""
        body = parse(RecommendRequest, await request.body())
        query = Query(user_id=body.user_id, n=body.n, deadline=time.time() + 60)
        profile = self._profiles(await self._read([PendingRequest(query)]))
        requests = request_batch([query], self._version)
        found = await self._stages["candidates"].remote(requests, profile)
        scores = await self._stages["scoring"].remote(profile, found)
        ranked = await self._stages["ranking"].remote(requests, found, scores)
        chosen = [c for c in ranked.choice_BN[0].tolist() if c >= 0]
        items = [
            {
                "item_id": self._catalogue.item_ids[found.item_ids_BK[0, choice]],
                "score": float(ranked.score_BN[0, place]),
                "source": found.sources[found.source_BK[0, choice]],
            }
            for place, choice in enumerate(chosen)
        ]
        answer = {"user_id": body.user_id, "items": items, "model_version": self._version, "degraded": []}
        return Response(orjson.dumps(answer), media_type="application/json")


def _deployment(name: str) -> Any:
    options: dict[str, Any] = {"num_cpus": getattr(CONFIG.stages, name).num_cpus}
    return serve.deployment(StageDeployment, name=STAGES[name][0], max_ongoing_requests=256, ray_actor_options=options)


_api: Any = Api  # a deployment, as the decorators have made it
app = _api.bind(CONFIG, **{name: _deployment(name).bind(name, CONFIG) for name in STAGES if name != "profile"})
