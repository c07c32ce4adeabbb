"""The same calls over HTTP, over a handle and in one process, to compare their answers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from deployments.pipeline.stage_client import Start, local
from deployments.store.base import StoreConfig
from deployments.store.redis import RedisStore
from graphs.config import STAGES, RecommenderArgs
from tests.support.paths import ROOT
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config, recommender_args

CALLER = ROOT / "tests" / "support" / "caller.py"
Call = tuple[str, dict[str, Any]]


def mixed_calls() -> list[Call]:
    """50 requests: known and unknown users, few and many items, exclusions, filters, given items."""
    calls: list[Call] = [("recommend", {"user_id": f"u{3 * i}", "n": 1 + 9 * i % 100}) for i in range(16)]
    calls += [("recommend", {"user_id": f"stranger {i}", "n": 10 + i}) for i in range(6)]
    calls += [
        ("recommend", {"user_id": f"u{i}", "n": 20, "exclude_ids": [f"i{j}" for j in range(i, 240, 5)]})
        for i in range(6)
    ]
    calls += [("recommend", {"user_id": f"u{50 + i}", "filters": {"genres": ["Classic"]}, "n": 40}) for i in range(5)]
    calls += [("recommend", {"user_id": f"u{i}", "filters": {"year": {"gte": 1990, "lte": 1999}}}) for i in range(5)]
    calls += [("rank", {"user_id": f"u{7 * i}", "item_ids": [f"i{j}" for j in range(i, 240, 9)]}) for i in range(8)]
    calls += [("rank", {"user_id": f"stranger {i}", "item_ids": ["i5", "i17", f"i{100 + i}"]}) for i in range(4)]
    assert len(calls) == 50
    return [(operation, body | {"deadline_ms": 10_000}) for operation, body in calls]


def over_http(cluster: Cluster, calls: list[Call]) -> list[dict[str, Any]]:
    def ask(call: Call) -> dict[str, Any]:
        answer = cluster.client.post(f"/v1/{call[0]}", json=call[1])
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(ask, calls))


def over_a_handle(cluster: Cluster, calls: list[Call], out: Path) -> dict[str, Any]:
    """The answers that caller.py gets, in a process of its own, without our flags and outside our folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    subprocess.run(
        [sys.executable, "-I", str(CALLER), str(out)],
        input=json.dumps({"address": cluster.address, "calls": calls}),
        env=environment | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        cwd=out.parent,
        text=True,
        check=True,
        timeout=120,
    )
    got: dict[str, Any] = json.loads(out.read_text())
    return got


async def in_one_process(
    calls: list[Call], config: Config, artifact: Artifact, in_process: Callable[..., Recommender]
) -> list[dict[str, Any]]:
    """The stages of `config` without Ray, on the store that the deployed ones use."""
    args = RecommenderArgs.model_validate(recommender_args(config))
    built = {name: stage(artifact, getattr(args.stages, name).config) for name, (_, stage) in STAGES.items()}
    starts: dict[str, Start] = {name: local(stage, 4) for name, stage in built.items()}
    store = RedisStore(StoreConfig(port=args.store.port, history_limit=args.store.history_limit, timeout_ms=5000))
    recommender = in_process(store, starts=starts)
    try:
        return list(await asyncio.gather(*(getattr(recommender, operation)(body) for operation, body in calls)))
    finally:
        await store.close()


def assert_alike(left: list[dict[str, Any]], right: list[dict[str, Any]], calls: list[Call]) -> None:
    for one, other, call in zip(left, right, calls, strict=True):
        assert one["degraded"] == other["degraded"] == [], (call, one["degraded"], other["degraded"])
        assert [i["item_id"] for i in one["items"]] == [i["item_id"] for i in other["items"]], call
        assert [i["source"] for i in one["items"]] == [i["source"] for i in other["items"]], call
        assert [i["score"] for i in one["items"]] == pytest.approx([i["score"] for i in other["items"]], abs=1e-4), call
