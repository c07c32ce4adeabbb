"""mosec with one batched worker in two processes, as its documentation advises for a whole model in Python.

RAYFUNNEL_BENCH_CONFIG=CONFIG python -m benchmarks.serving.peers.mosec_batched --port PORT
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import orjson
from mosec import Server, Worker

from benchmarks.serving.inprocess import build
from deployments.pipeline.batcher import BatcherConfig

MAX_BATCH = 64


class MosecFunnel(Worker):  # type: ignore[misc]
    """The whole funnel on a batch of request bodies."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._load())

    async def _load(self) -> None:
        self._recommender = build(os.environ["RAYFUNNEL_BENCH_CONFIG"], BatcherConfig(max_batch=MAX_BATCH, in_flight=1))
        await self._recommender.readiness.warm_up()

    def deserialize(self, data: bytes) -> bytes:
        """Leaves the parsing to the recommender."""
        return bytes(data)

    def serialize(self, data: Any) -> bytes:
        """JSON."""
        return orjson.dumps(data)

    def forward(self, data: list[bytes]) -> list[Any]:
        """Answers a batch."""
        return self._loop.run_until_complete(self._answers(data))

    async def _answers(self, data: list[bytes]) -> list[Any]:
        return await asyncio.gather(*map(self._recommender.recommend, data))


if __name__ == "__main__":
    server = Server()
    server.append_worker(MosecFunnel, num=2, max_batch_size=MAX_BATCH, max_wait_time=1, route="/v1/recommend")
    server.run()
