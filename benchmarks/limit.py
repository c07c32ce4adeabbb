"""The limit: what this machine can compute without any server. One process; run as many as there are cores.

python -m benchmarks.limit CONFIG BODIES SECONDS      # prints requests and seconds
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import orjson

from benchmarks.inprocess import build
from deployments.batcher import BatcherConfig

BATCH = 32


async def run(config: str, bodies: list[bytes], seconds: float) -> tuple[int, float]:
    """Bytes to bytes, batch after batch, all requests at hand."""
    recommender = build(config, BatcherConfig(max_batch=BATCH, in_flight=1))
    await recommender.warm_up()
    done, at = 0, 0
    for began in (0.0, time.perf_counter()):  # the first batch is not counted
        while not began or time.perf_counter() - began < seconds:
            batch = [bodies[(at + i) % len(bodies)] for i in range(BATCH)]
            at += BATCH
            for answer in await asyncio.gather(*map(recommender.recommend, batch)):
                orjson.dumps(answer)
            if not began:
                break
            done += BATCH
    return done, time.perf_counter() - began


if __name__ == "__main__":
    config, bodies, seconds = sys.argv[1:]
    lines = Path(bodies).read_bytes().splitlines()
    requests, took = asyncio.run(run(config, lines, float(seconds)))
    print(json.dumps({"requests": requests, "seconds": took}))
