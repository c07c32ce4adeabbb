"""FastAPI on uvicorn, as its documentation advises: a lifespan that loads the model, async endpoints, two workers.

RAYFUNNEL_BENCH_CONFIG=CONFIG RAYFUNNEL_BENCH_BATCH=64 uvicorn --workers 2 benchmarks.serving.peers.fastapi_uvicorn:app
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from benchmarks.serving.inprocess import build
from deployments.pipeline.batcher import BatcherConfig

state: dict[str, Any] = {}


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Loads the recommender; `max_batch` 1 answers each request by itself."""
    max_batch = int(os.environ["RAYFUNNEL_BENCH_BATCH"])
    batching = BatcherConfig(max_batch=max_batch, in_flight=2 if max_batch > 1 else 4)
    state["recommender"] = build(os.environ["RAYFUNNEL_BENCH_CONFIG"], batching)
    await state["recommender"].warm_up()
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/v1/health/ready")
async def ready() -> dict[str, str]:
    """Answers once the model is loaded."""
    return {"status": "ready"}


@app.post("/v1/recommend")
async def recommend(request: Request) -> Response:
    """The same operation on the same bytes."""
    answer = await state["recommender"].recommend(await request.body())
    return Response(orjson.dumps(answer), media_type="application/json")
