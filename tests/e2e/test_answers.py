"""What is deployed, and that HTTP, a handle and the stages in one process answer alike."""

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
from tests.support.ray_cluster import Cluster, Config, recommender_args, wait_for

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
    """What the program caller.py gets, in a process of its own, without our flags and outside our folder."""
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


def states(cluster: Cluster) -> dict[str, tuple[str, dict[str, str]]]:
    """As `serve status` shows them."""
    return {
        name: (app["status"], {name: d["status"] for name, d in app["deployments"].items()})
        for name, app in cluster.applications().items()
    }


def test_serve_shows_both_applications_running_and_every_stage_by_its_name(served: Cluster) -> None:
    assert states(served) == {
        "store": ("RUNNING", {"Store": "HEALTHY"}),
        "recommender": (
            "RUNNING",
            dict.fromkeys(("Ingress", "CandidateGenerator", "Scorer", "Ranker", "MetricsHub"), "HEALTHY"),
        ),
    }


async def test_http_a_handle_and_one_process_give_the_same_items(
    served: Cluster,
    config: Config,
    artifact: Artifact,
    in_process: Callable[..., Recommender],
    tmp_path: Path,
) -> None:
    calls = mixed_calls()
    http = over_http(served, calls)
    assert len({tuple(i["item_id"] for i in answer["items"]) for answer in http}) > 40, "too alike to tell a mix-up"
    assert [a["user_id"] for a in http] == [body["user_id"] for _, body in calls]
    handle = over_a_handle(served, calls, tmp_path / "answers.json")
    assert_alike(http, [got["answer"] for got in handle["answers"]], calls)
    assert_alike(http, await in_one_process(calls, config, artifact, in_process), calls)
    assert handle["gpus_free"] == 1.75, "the Scorer holds a quarter of one of two GPUs"


def test_requests_that_serve_has_routed_before_do_not_go_through_it(served: Cluster) -> None:
    def directly() -> bool:
        answer = served.client.post("/v1/recommend", json={"user_id": "u1"})
        return bool(answer.headers["x-request-id"] == answer.json()["request_id"])  # Serve's own ids are others

    wait_for("an answer by each ingress replica", lambda: all(directly() for _ in range(8)))
    named = {"X-Request-ID": "mine"}
    assert served.client.post("/v1/recommend", json={}, headers=named).headers["x-request-id"] == "mine"


def test_a_bad_request_by_handle_is_a_value_error_that_names_the_field(served: Cluster, tmp_path: Path) -> None:
    bad: list[tuple[Call, str]] = [
        (("recommend", {"user_id": "u1", "n": 101}), "n: "),
        (("recommend", {"user_id": "u1", "colour": "red"}), "colour: "),
        (("recommend", {}), "user_id: "),
        (("rank", {"user_id": "u1", "item_ids": []}), "item_ids: "),
        (("similar", {"item_id": "no such item"}), "item_id: "),
        (("record_events", {"events": [{"user_id": "u1", "item_id": "i1", "event_type": 3}]}), "events.0.event_type: "),
    ]
    good: Call = ("recommend", {"user_id": "u1", "n": 3, "deadline_ms": 10_000})
    *refused, answered = over_a_handle(served, [*(call for call, _ in bad), good], tmp_path / "answers.json")["answers"]
    for (call, field), got in zip(bad, refused, strict=True):
        assert field in got.get("value_error", ""), (call, got)
    assert len(answered["answer"]["items"]) == 3


def test_the_next_recommendation_knows_an_event_posted_just_before(served: Cluster) -> None:
    first = served.recommend("newcomer")["items"]
    assert {item["source"] for item in first} == {"popular"}
    event = {"user_id": "newcomer", "item_id": first[0]["item_id"], "event_type": "like"}
    assert served.client.post("/v1/events", json={"events": [event]}).status_code == 202
    then = served.recommend("newcomer")["items"]
    assert first[0]["item_id"] not in {item["item_id"] for item in then}
    assert {item["source"] for item in then} != {"popular"}
