"""Real log files of the cluster: every line is ECS, and nothing that a caller sent is in any file, metric or page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import redis
import yaml

from deployments.store.base import StoreConfig
from tests.support.ecs_fields import flat, problems
from tests.support.parity import over_a_handle
from tests.support.paths import ROOT
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster

CANARY = "canary-7f3a9c"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FILEBEAT = yaml.safe_load((ROOT / "monitoring/elk/filebeat.yml").read_text("utf-8"))


def our_files(cluster: Cluster) -> list[Path]:
    """Those of the replicas that run, and of the drift actor."""
    tags = [replica.replica_id for app in ("recommender", "store") for replica in cluster.replicas(app)]
    found = [path for path in cluster.logs.glob("*.log") if any(tag in path.name for tag in tags)]
    assert len(found) == len(tags) == 6, (tags, sorted(cluster.logs.glob("*.log")))
    return found + sorted(cluster.logs.glob("rayfunnel_recommender_drift_*.log"))


def parsed(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def request_lines(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """By request id."""
    lines = [dict(flat(line)) for path in our_files(cluster) for line in parsed(path)]
    return {f["http.request.id"]: f for f in lines if f.get("event.dataset") == "rayfunnel.requests"}


def test_real_log_files_are_ecs_and_each_request_has_its_line(observed: Cluster) -> None:
    cluster = observed
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    answer = cluster.client.post("/v1/recommend", json={"user_id": "u1", "deadline_ms": 10_000}, headers=headers).json()
    refused = cluster.client.post("/v1/recommend", json={"user_id": "u1", "n": 0})
    assert refused.status_code == 422
    line = wait_for("the request's line", lambda: request_lines(cluster).get(answer["request_id"]))
    assert line["trace.id"] == TRACE
    assert (line["rayfunnel.deployment"], line["rayfunnel.batch.size"]) == ("Ingress", 1)
    assert line["rayfunnel.timings_ms.scoring"] > 0
    assert re.fullmatch("[0-9a-f]{32}", line["user.hash"])
    assert [f["error.type"] for f in request_lines(cluster).values() if "error.type" in f] == ["InvalidRequest"]
    for path in our_files(cluster):
        lines = parsed(path)
        ours = next(n for n, line in enumerate(lines) if "ecs.version" in line)
        # What Ray says before our code runs is JSON of its own; filebeat.yml gives it ECS names.
        assert all(line["levelname"] == "INFO" for line in lines[:ours]), path
        wrong = {json.dumps(line): found for line in lines[ours:] if (found := problems(line))}
        assert not wrong, (path, wrong)


def test_filebeat_is_pointed_at_these_files_and_renames_the_fields_that_ray_writes(observed: Cluster) -> None:
    (given,) = FILEBEAT["filebeat.inputs"]
    pattern = given["paths"][0].replace("${RAYFUNNEL_LOGS:/tmp/ray/session_latest/logs/serve}", str(observed.logs))
    shipped = set(Path("/").glob(pattern.lstrip("/")))
    assert set(our_files(observed)) <= shipped
    controller = next(path for path in shipped if path.name.startswith("controller_"))
    written = {name for line in parsed(controller) for name in line}
    then = FILEBEAT["processors"][1]["then"]
    known = {"message", "ray_serve_extra_fields"}
    for step in then:
        known |= {rename["from"] for rename in step.get("rename", {}).get("fields", [])}
        known |= set(step.get("drop_fields", {}).get("fields", []))
    extra = {name for name in written - known if not name.startswith(("event.", "rayfunnel."))}
    assert not extra, "left as they are, beside the fields of ECS"
    output = FILEBEAT["output.elasticsearch"]
    assert output["api_key"] == "${ELASTICSEARCH_API_KEY}"
    assert output["hosts"] == ["${ELASTICSEARCH_URL}"]


def hostile(n: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Calls with the canary wherever a caller can put it, good and bad."""
    ok = {"deadline_ms": 10_000}
    yield "recommend", {"user_id": f"{CANARY}-{n}", "context": {CANARY: CANARY}, "exclude_ids": [CANARY], **ok}
    yield "recommend", {"user_id": f"{CANARY} {n}", "filters": {"genres": [CANARY]}, "explain": True, **ok}
    yield "recommend", {"user_id": "u1", "filters": {CANARY: [CANARY]}}
    yield "recommend", {"user_id": "u1", "filters": {"year": {"gte": CANARY}}}
    yield "recommend", {"user_id": CANARY, CANARY: CANARY}
    yield "recommend", {"user_id": [CANARY], "n": CANARY}
    yield "recommend", {"user_id": f"{CANARY}-late-{n}", "deadline_ms": 1}
    yield "rank", {"user_id": CANARY, "item_ids": ["i1", CANARY], "context": {CANARY: 1.0}, **ok}
    yield "rank", {"user_id": CANARY, "item_ids": [CANARY]}
    yield "similar", {"item_id": CANARY}
    event = {"user_id": CANARY, "item_id": CANARY, "event_type": CANARY, "event_id": CANARY, "request_id": CANARY}
    yield "record_events", {"events": [event]}
    yield "record_events", {"events": [event | {"timestamp": CANARY}]}


async def send(cluster: Cluster) -> None:
    """The hostile calls over HTTP, and what HTTP alone can carry."""
    headers = dict.fromkeys(("X-Canary", "traceparent", "User-Agent", "Cookie", "Referer"), CANARY)
    headers |= {"Authorization": f"Bearer {CANARY}", "Content-Type": "application/json"}
    headers["X-Request-ID"] = f'"{CANARY}"'  # not a sane one, which log lines would carry
    async with httpx.AsyncClient(base_url=cluster.url, timeout=30, headers=headers) as client:
        for n in range(3):
            for operation, body in hostile(n):
                path = "events" if operation == "record_events" else operation
                await client.post(f"/v1/{path}?{CANARY}={CANARY}", json=body)
        await client.post("/v1/recommend", content=f'{{"user_id": "{CANARY}"'.encode())
        await client.post("/v1/recommend", content=CANARY.encode() * 200_000)
        for path in (f"/{CANARY}", f"/drift/{CANARY}", f"/v1/{CANARY}?{CANARY}", f"/v1/health/live?{CANARY}"):
            await client.get(path)
        for n in range(5):  # callers that leave
            with contextlib.suppress(httpx.TimeoutException):
                await client.post("/v1/recommend", json={"user_id": f"{CANARY}-gone-{n}"}, timeout=0.002)
        traffic = [
            client.post("/v1/recommend", json={"user_id": f"{CANARY}-{n}", "deadline_ms": 10_000}) for n in range(120)
        ]
        await asyncio.gather(*traffic)


def break_the_store(cluster: Cluster) -> None:
    """Gives a user's key a value of the wrong type: the errors of server and client name the key."""
    user = f"{CANARY}-broken"
    key = f"{StoreConfig().app}:history:{user}"
    with redis.Redis(port=cluster.store_port) as store:
        store.set(key, "no sorted set")
        answer = cluster.recommend(user)
        event = {"user_id": user, "item_id": "i1", "event_type": "like"}
        refused = cluster.client.post("/v1/events", json={"events": [event]})
        store.delete(key)
    assert answer["degraded"] == ["profile:store"]
    assert (refused.status_code, refused.json()["title"]) == (503, "Store unavailable")
    assert "WRONGTYPE" in refused.text


def excerpt(path: Path) -> str:
    """The text around the canary in a file; empty: the file has none."""
    content = path.read_bytes()
    at = content.find(CANARY.encode())
    return "" if at < 0 else repr(content[max(0, at - 300) : at + 300])


def test_no_file_metric_or_page_holds_anything_that_callers_sent(
    observed: Cluster, drift_folder: Path, tmp_path: Path
) -> None:
    cluster, began = observed, time.time()
    asyncio.run(send(cluster))
    over_a_handle(cluster, list(hostile(9)), tmp_path / "answers.json")
    break_the_store(cluster)

    def reported() -> list[Path]:
        cluster.client.post("/v1/recommend", json={"user_id": f"{CANARY}-{time.time()}"})
        return [path for path in drift_folder.rglob("drift-*.html") if path.stat().st_mtime > began + 5]

    report = wait_for("a deep drift report", reported, every_s=0.5)[0]
    lines = request_lines(cluster).values()
    assert sum(line["http.response.status_code"] == 200 for line in lines) > 120
    statuses = {line["http.response.status_code"] for line in lines}
    assert {200, 202, 404, 422, 503} <= statuses, statuses

    pages = ("/metrics", "/v1/drift", "/drift", f"/drift/{report.stem}", "/v1/health/ready", "/demo/users")
    shown = {path: cluster.client.get(path) for path in pages}
    assert all(answer.status_code == 200 for answer in shown.values())
    assert not [path for path, answer in shown.items() if CANARY in answer.text]

    live = report.with_name("live.parquet")
    assert CANARY not in str(pq.read_table(live).to_pylist())
    files = [path for root in (cluster.folder, drift_folder) for path in root.rglob("*") if path.is_file()]
    files = [path for path in files if not path.is_relative_to(cluster.store_folder)]
    assert {report, live, *(path.resolve() for path in our_files(cluster))} <= {path.resolve() for path in files}
    found = {path.name: text for path in files if (text := excerpt(path))}
    assert not found
