"""The limit: requests that this machine can compute without any server. One process; run one per core.

python -m benchmarks.serving.limit CONFIG BODIES SECONDS [BATCH]   # prints requests, seconds, median batch time
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

import orjson

from benchmarks.serving.inprocess import build
from deployments.pipeline.batcher import BatcherConfig

BATCH = 32


async def run(config: str, bodies: list[bytes], seconds: float, size: int) -> tuple[list[float], float]:
    """Answers batch after batch, from bytes to bytes. Returns the seconds of each batch and of all together."""
    recommender = build(config, BatcherConfig(max_batch=size, in_flight=1))
    await recommender.readiness.warm_up()
    turn = itertools.cycle(bodies)

    async def batch() -> float:
        began = time.perf_counter()
        for answer in await asyncio.gather(*map(recommender.recommend, itertools.islice(turn, size))):
            orjson.dumps(answer)
        return time.perf_counter() - began

    await batch()  # not counted: it compiles code and maps files
    took, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds:
        took.append(await batch())
    return took, time.perf_counter() - began


if __name__ == "__main__":
    config, bodies, seconds, *size = sys.argv[1:]
    batch = int(size[0]) if size else BATCH
    lines = Path(bodies).read_bytes().splitlines()
    batches, took = asyncio.run(run(config, lines, float(seconds), batch))
    p50_ms = statistics.median(batches) * 1e3
    print(json.dumps({"requests": batch * len(batches), "seconds": took, "p50_ms": p50_ms}))
