"""HTTP over the real funnel in one process: status, problem documents, limits, the page."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from opentelemetry import trace
from prometheus_client.parser import text_string_to_metric_families

from deployments.api.access import AccessChain, Head
from deployments.api.fast_path.routes import Routes
from deployments.api.http import HttpConfig, make_app
from deployments.api.operations import Recommender
from deployments.pipeline.request import came_at
from deployments.store.memory import MemoryStore
from monitoring.logs.context import current_request

LIMIT = 20_000


@pytest.fixture
async def client(in_process: Callable[..., Recommender], store: MemoryStore) -> AsyncIterator[httpx.AsyncClient]:
    recommender = in_process(store)
    app = make_app(recommender, HttpConfig(max_body_bytes=LIMIT), AccessChain())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/v1/health/ready")).status_code == 503
        await recommender.readiness.warm_up()
        yield client


def post(*headers: tuple[bytes, bytes]) -> Head:
    return Head("POST", "/v1/recommend", headers, None)


async def test_what_was_answered_once_is_answered_directly(
    in_process: Callable[..., Recommender], store: MemoryStore
) -> None:
    answers: Routes = {}
    recommender = in_process(store)
    app = make_app(recommender, HttpConfig(max_body_bytes=LIMIT), AccessChain(), answers)
    await recommender.readiness.warm_up()
    transport = httpx.ASGITransport(app, root_path="/shop", raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/shop/") as client:
        await client.get("v1/health/ready")
        assert (await client.post("v1/nowhere")).status_code == 404
        assert (await client.post("v1/recommen%64", json={"user_id": "u1"})).status_code == 200
        assert answers == {}
        by_serve = await client.post("v1/recommend", json={"user_id": "u1", "n": 3})
    [directly] = [answers[target] for target in answers if target == b"/shop/v1/recommend"]
    body = b'{"user_id": "u1", "n": 3}'
    trace_id = b"4bf92f3577b34da6a3ce929d0e0e4736"
    traceparent = b"00-" + trace_id + b"-00f067aa0ba902b7-01"
    direct = await directly(body, post((b"x-request-id", b"mine"), (b"traceparent", traceparent)))
    assert json.loads(direct.body)["items"] == by_serve.json()["items"]
    assert json.loads(direct.body)["request_id"] == "mine"
    request = current_request()
    assert request is not None
    assert request.trace_id == trace_id.decode()
    assert (await directly(b"{}", post())).status_code == 422
    assert (await directly(b" " * (LIMIT + 1), post())).status_code == 413


async def test_nothing_is_answered_directly_where_it_is_off_or_serve_traces(
    in_process: Callable[..., Recommender], store: MemoryStore
) -> None:
    async def learned(config: HttpConfig, span: trace.Span) -> Routes:
        answers: Routes = {}
        app = make_app(recommender, config, AccessChain(), answers)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            with trace.use_span(span):
                assert (await client.post("/v1/recommend", json={"user_id": "u1"})).status_code == 200
        return answers

    recommender = in_process(store)
    await recommender.readiness.warm_up()
    not_sampled = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))
    assert await learned(HttpConfig(), trace.INVALID_SPAN)
    assert not await learned(HttpConfig(), not_sampled)
    assert not await learned(HttpConfig(direct=False), trace.INVALID_SPAN)


async def test_every_operation_answers(client: httpx.AsyncClient) -> None:
    recommended = await client.post("/v1/recommend", json={"user_id": "u1", "n": 3})
    assert recommended.status_code == 200
    assert len(recommended.json()["items"]) == 3
    ranked = await client.post("/v1/rank", json={"user_id": "u1", "item_ids": ["i1", "i2"]})
    assert {item["item_id"] for item in ranked.json()["items"]} == {"i1", "i2"}
    similar = await client.post("/v1/similar", json={"item_id": "i1", "n": 2})
    assert len(similar.json()["items"]) == 2
    event = {"user_id": "u1", "item_id": "i1", "event_type": "click"}
    recorded = await client.post("/v1/events", json={"events": [event]})
    assert (recorded.status_code, recorded.json()["accepted"]) == (202, 1)
    assert (await client.get("/v1/health/live")).json() == {"status": "live"}
    ready = (await client.get("/v1/health/ready")).json()
    assert (ready["status"], ready["store"]) == ("ready", "ok")


async def test_ready_says_that_the_store_is_down_and_stays_ready(client: httpx.AsyncClient, store: MemoryStore) -> None:
    store.failing = True
    ready = await client.get("/v1/health/ready")
    assert ready.status_code == 200
    assert "set to fail" in ready.json()["store"]


async def test_events_that_the_store_does_not_take_are_not_acknowledged(
    client: httpx.AsyncClient, store: MemoryStore
) -> None:
    store.failing = True
    event = {"user_id": "u1", "item_id": "i1", "event_type": "click"}
    refused = await client.post("/v1/events", json={"events": [event]})
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["title"] == "Store unavailable"


async def test_the_time_of_a_request_whose_body_comes_late_begins_with_its_end(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"user_id": '
        yield b'"u1"}'

    came_at.set(time.time() - 100)
    answer = await client.post("/v1/recommend", content=pieces())
    assert answer.json()["degraded"] == []


BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "body"),
    "not JSON": (b"hello", "body"),
    "truncated": (b'{"user_id": "u1"', "body"),
    "a list": (b"[]", "body"),
    "null": (b"null", "body"),
    "NaN": (b'{"user_id": "u1", "context": {"x": NaN}}', "context.x"),
    "infinity": (b'{"user_id": "u1", "context": {"x": 1e999}}', "context.x"),
    "deep": (b'{"user_id": "u1", "filters": {"genres": ' + b"[" * 5000 + b"]" * 5000 + b"}}", "body"),
    "invalid UTF-8": (b'{"user_id": "\xff\xfe"}', "body"),
    "lone surrogate": (b'{"user_id": "\\ud800"}', "body"),
    "control character": (b'{"user_id": "a\\u0000b"}', "user_id"),
    "huge integer": (b'{"user_id": "u1", "n": ' + b"9" * 400 + b"}", "n"),
    "long id": (b'{"user_id": "' + b"u" * 10_000 + b'"}', "user_id"),
    "unknown field": (b'{"user_id": "u1", "__proto__": {}}', "__proto__"),
    "object as id": (b'{"user_id": {"$ne": null}}', "user_id"),
    "boolean as number": (b'{"user_id": "u1", "n": true}', "n"),
}


@pytest.mark.parametrize("kind", BAD_BODIES)
async def test_a_malformed_body_is_4xx_with_the_field_named(client: httpx.AsyncClient, kind: str) -> None:
    body, field = BAD_BODIES[kind]
    refused = await client.post("/v1/recommend", content=body)
    assert refused.status_code == 422, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    problem = refused.json()
    assert problem["status"] == 422
    assert any(error["field"].startswith(field) for error in problem["errors"]), problem
    assert len(refused.content) < 2000, "the answer does not repeat a huge value"
    assert (await client.post("/v1/recommend", json={"user_id": "u1"})).status_code == 200


async def test_a_body_over_the_limit_is_413_with_and_without_content_length(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 1000 + 2):
            sent.append(1)
            yield b" " * 1000

    sent: list[int] = []
    body = json.dumps({"user_id": "u" * LIMIT}).encode()
    for refused in (
        await client.post("/v1/recommend", content=body),
        await client.post("/v1/recommend", content=chunks()),
        await client.post("/v1/recommend", content=b"{}", headers={"content-length": "-5"}),
    ):
        assert refused.status_code == 413, refused.text
        assert refused.json()["errors"][0]["field"] == "body"
    assert len(sent) <= LIMIT // 1000 + 1, "nothing is read past the limit"


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/recommend", 405)])
async def test_unknown_paths_and_methods_are_problems_too(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    refused = await client.request(method, path)
    assert refused.status_code == status
    assert refused.headers["content-type"] == "application/problem+json"


async def test_a_bug_is_a_problem_without_its_details(client: httpx.AsyncClient, store: MemoryStore) -> None:
    async def broken(*_: object) -> object:
        raise ZeroDivisionError("secret of the implementation")

    store.histories = store.record = broken  # type: ignore[method-assign, assignment]
    event = {"user_id": "u1", "item_id": "i1", "event_type": "click"}
    for failed in (
        await client.get("/demo/history", params={"user_id": "u1"}),
        await client.post("/v1/events", json={"events": [event]}),
    ):
        assert failed.status_code == 500
        assert failed.headers["content-type"] == "application/problem+json"
        assert "secret" not in failed.text


async def test_metrics_count_what_the_client_counts(client: httpx.AsyncClient, store: MemoryStore) -> None:
    def value(text: str, name: str, **labels: str) -> float:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return 0.0

    answers = [
        await client.post("/v1/recommend", json={"user_id": f"u{i}", "n": 101 if i % 4 == 0 else 5}) for i in range(20)
    ]
    event = {"user_id": "u1", "item_id": "i1", "event_type": "click"}
    recorded = await client.post("/v1/events", json={"events": [event]})
    store.failing = True
    answers.append(await client.post("/v1/recommend", json={"user_id": "u1"}))
    scrape = await client.get("/metrics")
    assert scrape.headers["content-type"].startswith("text/plain")
    text = scrape.text
    for status in (200, 422):
        counted = sum(answer.status_code == status for answer in answers)
        assert value(text, "rayfunnel_requests_total", operation="recommend", status=str(status)) == counted
    assert value(text, "rayfunnel_requests_total", operation="record_events", status=str(recorded.status_code)) == 1
    assert value(text, "rayfunnel_request_seconds_count", operation="recommend") == len(answers)
    assert value(text, "rayfunnel_degraded_total", stage="profile", reason="store") == 1
    assert value(text, "rayfunnel_batch_size_sum") == 16 + 1, "the warm-up request travels too"
    assert value(text, "rayfunnel_stage_seconds_count", stage="scoring") == 17
    assert value(text, "rayfunnel_queue_depth") == 0


async def test_openapi_describes_every_operation_and_its_body(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    assert set(schema["paths"]) == {
        "/v1/recommend",
        "/v1/rank",
        "/v1/similar",
        "/v1/events",
        "/v1/drift",
        "/v1/health/live",
        "/v1/health/ready",
        "/metrics",
    }
    body = schema["paths"]["/v1/recommend"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"user_id", "n", "exclude_ids", "filters", "context", "deadline_ms", "explain"} <= set(body["properties"])
    assert "$ref" not in json.dumps(body)


async def test_the_page_is_served_with_a_policy_that_runs_its_own_script_only(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    nonce = re.search(r"script-src 'nonce-([^']+)'", page.headers["content-security-policy"])
    assert nonce
    assert f'<script nonce="{nonce[1]}">' in page.text
    assert "innerHTML" not in page.text
    assert nonce[1] not in (await client.get("/")).text


async def test_the_page_gets_users_and_histories_with_titles(client: httpx.AsyncClient) -> None:
    users = (await client.get("/demo/users")).json()["user_ids"]
    assert "u1" in users
    events = (await client.get("/demo/history", params={"user_id": "u1"})).json()["events"]
    assert events[0]["metadata"]["title"].startswith("Title ")
    assert (await client.get("/demo/history", params={"user_id": "\x00"})).status_code == 422
