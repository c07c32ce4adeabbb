"""Log lines: the Elastic Common Schema, one per request, without values of callers."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import pytest

from deployments.api.access import AccessChain
from deployments.api.http import HttpConfig, make_app
from deployments.api.operations import Recommender
from deployments.assembly import FunnelConfig
from deployments.errors import FunnelError, InvalidRequest, StoreUnavailable
from deployments.pipeline.stage_client import StageClient, scattered
from deployments.store.memory import MemoryStore
from monitoring.logs.context import BatchLogContext, RequestLogContext, log_context, trace_of
from monitoring.logs.ecs import FIELDS, EcsFormatter, replica_fields
from monitoring.logs.pseudonyms import KEY_VARIABLE, Pseudonyms
from monitoring.logs.request_log import RequestLog
from monitoring.logs.setup import LogConfig, install
from tests.support.ecs_fields import flat, problems

CANARY = "canary-7f3a"
REPLICA = replica_fields("recommender", "Ingress", "abc123")
Build = Callable[..., Recommender]
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The lines logged during the test, parsed."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(EcsFormatter(REPLICA))
    root, ours = logging.getLogger(), logging.getLogger("rayfunnel")
    before, level = root.handlers, ours.level
    root.handlers = [handler]
    ours.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers = before
    ours.setLevel(level)


def get(line: dict[str, Any], name: str) -> Any:
    return dict(flat(line)).get(name)


def requests_in(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if get(line, "event.dataset") == "rayfunnel.requests"]


def everything() -> FunnelConfig:
    return FunnelConfig(logs=LogConfig(success_share=1.0))


def test_a_line_has_ecs_fields_and_custom_fields_in_their_own_namespace(lines: Lines) -> None:
    logging.getLogger("rayfunnel.test").info("seen %d", 3, extra={FIELDS: {"rayfunnel.batch.size": 3}})
    (line,) = lines()
    assert problems(line) == []
    assert line["message"] == "seen 3"
    assert line["ecs.version"] == "8.11.0"
    assert (get(line, "service.name"), get(line, "rayfunnel.replica")) == ("recommender", "abc123")


def test_attributes_that_others_put_on_a_record_are_left_out(lines: Lines) -> None:
    logging.getLogger("rayfunnel.test").info("seen", extra={"request_id": CANARY, "route": "/x", "took": object()})
    assert problems(lines()[0]) == []
    assert CANARY not in json.dumps(lines())


def test_an_exception_and_its_causes_are_logged_by_type_and_frames_without_message(lines: Lines) -> None:
    def lookup(user: str) -> None:
        try:
            raise KeyError(user)
        except KeyError as error:
            raise RuntimeError(f"no {user}") from error

    try:
        lookup(CANARY)
    except RuntimeError:
        logging.getLogger("rayfunnel.test").exception("it failed")
    (line,) = lines()
    assert problems(line) == []
    assert CANARY not in json.dumps(line)
    assert get(line, "error.type") == "RuntimeError"
    assert get(line, "error.message") is None
    trace = get(line, "error.stack_trace")
    assert "in lookup" in trace
    assert trace.index("KeyError\n") < trace.index("RuntimeError\n")


def test_a_message_is_logged_if_its_class_is_loggable_or_the_configuration_asks_for_it() -> None:
    def message(error: Exception, all_messages: bool) -> Any:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "failed", (), (type(error), error, None))
        return get(json.loads(EcsFormatter(REPLICA, all_messages).format(record)), "error.message")

    assert message(StoreUnavailable("no answer in 50 ms"), False) == "no answer in 50 ms"
    assert message(InvalidRequest([("user_id", CANARY)]), False) is None
    assert message(KeyError(CANARY), False) is None
    assert message(KeyError(CANARY), True) == f"'{CANARY}'"


async def test_an_exception_of_a_task_that_was_never_retrieved_is_logged_without_message(lines: Lines) -> None:
    async def fails() -> None:
        raise ValueError(CANARY)

    task = asyncio.ensure_future(fails())
    await asyncio.wait({task})
    asyncio.get_running_loop().call_exception_handler(
        {"message": "Task exception was never retrieved", "task": task, "exception": task.exception()}
    )
    (line,) = lines()
    assert line["message"] == "Task exception was never retrieved"
    assert get(line, "error.type") == "ValueError"
    assert CANARY not in json.dumps(line)


def test_install_writes_to_rays_file_without_its_buffer_and_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Serve's setup in throughput mode: a buffer of 1,000 records, formatted as text."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stderr)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    ray, ours, root = logging.getLogger("ray.serve"), logging.getLogger("rayfunnel"), logging.getLogger()
    before = ray.handlers, ray.level, ray.propagate, root.handlers, ours.level
    file = logging.FileHandler(tmp_path / "replica.log")
    ray.handlers, ray.propagate = [MemoryHandler(1000, logging.ERROR, file)], False
    ray.setLevel(logging.INFO)
    try:
        install(LogConfig(stderr="warnings"), REPLICA)
        logging.captureWarnings(False)
        log_context.set(BatchLogContext("b1"))
        ray.info("Started")
        log_context.set(None)
        ours.getChild("x").info("ours")
        ours.getChild("x").warning("ours too")
        written = [json.loads(line) for line in (tmp_path / "replica.log").read_text().splitlines()]
        assert [line["message"] for line in written[1:]] == ["ours", "ours too"]
        assert json.loads(stderr.getvalue())["message"] == "ours too"
        ray.handlers[0].flush()
        started = json.loads((tmp_path / "replica.log").read_text().splitlines()[-1])
        assert started["message"] == "Started"
        assert get(started, "rayfunnel.batch.id") == "b1", "it belongs to what ran when it was made"
        assert all(problems(line) == [] for line in [*written, started])

        ray.handlers = [logging.FileHandler(tmp_path / "anew.log")]  # as when a replica's deployment is updated
        try:
            raise ValueError(CANARY)
        except ValueError:
            ray.exception("Request failed.")
        ray.handlers[0].close()
        (anew,) = [json.loads(line) for line in (tmp_path / "anew.log").read_text().splitlines()]
        assert (anew["message"], get(anew, "error.type"), problems(anew)) == ("Request failed.", "ValueError", [])
        assert CANARY not in json.dumps(anew)
    finally:
        file.close()
        ray.handlers, ray.level, ray.propagate, root.handlers, ours.level = before
        for logger in (ray, logging.getLogger("ray")):
            logger.filters.clear()


async def test_a_request_has_one_line_with_its_timings(in_process: Build, store: MemoryStore, lines: Lines) -> None:
    answer = await in_process(store, everything()).recommend({"user_id": "u3", "deadline_ms": 20_000})
    (line,) = requests_in(lines())
    assert problems(line) == []
    assert get(line, "http.request.id") == answer["request_id"]
    assert get(line, "trace.id") == answer["request_id"], "the caller sent no trace"
    assert get(line, "event.action") == "recommend"
    assert (get(line, "event.outcome"), get(line, "http.response.status_code")) == ("success", 200)
    assert get(line, "event.duration") > 0
    assert set(line["rayfunnel"]["timings_ms"]) == {"queue", "profile", "candidates", "scoring", "ranking"}
    assert get(line, "rayfunnel.batch.size") == 1
    assert get(line, "rayfunnel.model_version") == answer["model_version"]
    assert "u3" not in json.dumps(line)


async def test_the_line_of_an_http_request_has_its_trace_id(
    in_process: Build, store: MemoryStore, lines: Lines
) -> None:
    import httpx

    app = make_app(in_process(store, everything()), HttpConfig(), AccessChain())
    transport = httpx.ASGITransport(app=app)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        for header in (f"00-{trace}-00f067aa0ba902b7-01", f"00-{CANARY}-00f067aa0ba902b7-01"):
            await client.post("/v1/similar", json={"item_id": "i1"}, headers={"traceparent": header})
    with_trace, without = requests_in(lines())
    assert get(with_trace, "trace.id") == trace
    assert get(without, "trace.id") == get(without, "http.request.id")


@pytest.mark.parametrize("header", ["", "00", "00-xyz-1-01", f"00-{'0' * 32}-1-01", f"00-{'A' * 32}-1-01"])
def test_an_invalid_traceparent_gives_no_trace(header: str) -> None:
    assert trace_of([(b"host", b"x"), (b"traceparent", header.encode())]) == ""


async def test_errors_and_degraded_and_slow_answers_always_have_a_line_and_others_a_share(
    in_process: Build, store: MemoryStore, lines: Lines
) -> None:
    few = FunnelConfig(logs=LogConfig(success_share=0, slow_ms=60_000))
    recommender = in_process(store, few)
    await recommender.recommend({"user_id": "u3", "deadline_ms": 20_000})
    assert requests_in(lines()) == []
    with pytest.raises(InvalidRequest):
        await recommender.recommend({"user_id": CANARY, "n": CANARY})
    store.failing = True
    degraded = await recommender.recommend({"user_id": "u4", "deadline_ms": 20_000})
    store.failing = False
    slow = in_process(store, FunnelConfig(logs=LogConfig(success_share=0, slow_ms=0.001)))
    await slow.recommend({"user_id": "u5", "deadline_ms": 20_000})
    refused, fallback, late = requests_in(lines())
    assert (get(refused, "http.response.status_code"), get(refused, "error.type")) == (422, "InvalidRequest")
    assert get(fallback, "rayfunnel.degraded") == degraded["degraded"] == ["profile:store"]
    assert get(fallback, "log.level") == "warning"
    assert get(late, "rayfunnel.share") == 1.0
    assert CANARY not in json.dumps(lines())


@pytest.fixture
def kept() -> Iterator[list[dict[str, Any]]]:
    """The fields of the lines about requests."""
    found: list[dict[str, Any]] = []
    logger = logging.getLogger("rayfunnel.requests")
    handler = logging.Handler()
    handler.emit = lambda record: found.append(getattr(record, FIELDS))  # type: ignore[method-assign]
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_the_configured_share_of_successes_is_logged(kept: list[dict[str, Any]]) -> None:
    lines = RequestLog(LogConfig(success_share=0.25, most_per_s=0), Pseudonyms.random(), "m")
    for _ in range(4000):
        lines.ended(RequestLogContext("recommend"), 200, 0.001)
    assert 850 < len(kept) < 1150  # 1000 ± 5.5 standard deviations
    assert {fields["rayfunnel.share"] for fields in kept} == {0.25}


def test_lines_per_second_are_limited_for_each_kind_and_the_next_line_counts_the_rest(
    kept: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [7.0]
    monkeypatch.setattr("monitoring.logs.request_log.time.monotonic", lambda: now[0])
    lines = RequestLog(LogConfig(success_share=1.0, most_per_s=3), Pseudonyms.random(), "m")
    for _ in range(10):
        lines.ended(RequestLogContext("recommend"), 200, 60.0)
        lines.ended(RequestLogContext("recommend"), 503, 0.001)
        lines.ended(RequestLogContext("recommend"), 200, 0.001)
        lines.ended(RequestLogContext("recommend"), 500, 0.001)
    slow, refused, well, failed = (
        [fields for fields in kept if (fields["http.response.status_code"], fields["event.duration"]) == kind]
        for kind in ((200, int(60e9)), (503, int(1e6)), (200, int(1e6)), (500, int(1e6)))
    )
    assert (len(slow), len(refused), len(well), len(failed)) == (2, 1, 3, 10)
    now[0] = 8.0
    lines.ended(RequestLogContext("recommend"), 200, 60.0)
    lines.ended(RequestLogContext("recommend"), 200, 0.001)
    assert sum(fields.get("rayfunnel.left_out", 0) for fields in kept) == 17 + 7


async def test_lines_of_a_batch_carry_its_request_ids_and_no_message_of_the_failed_stage(
    in_process: Build, store: MemoryStore, lines: Lines
) -> None:
    async def broken(deadline: float, batches: Any) -> Any:
        raise ValueError(f"cannot score {CANARY}")

    recommender = in_process(store, everything(), {"scoring": broken})
    bodies = [{"user_id": f"u{n}", "deadline_ms": 20_000} for n in range(3)]
    answers = await asyncio.gather(*(recommender.recommend(body) for body in bodies))
    (failed,) = [line for line in lines() if line["message"] == "stage scoring failed"]
    assert problems(failed) == []
    assert set(get(failed, "http.request.id")) == {answer["request_id"] for answer in answers}
    assert {get(line, "rayfunnel.batch.id") for line in requests_in(lines())} == {get(failed, "rayfunnel.batch.id")}
    assert get(failed, "error.type") == "ValueError"
    assert CANARY not in json.dumps(lines())


async def test_a_failed_shard_is_logged_without_its_message(lines: Lines) -> None:
    async def broken(deadline: float, batches: Any) -> Any:
        raise ValueError(CANARY)

    place = StageClient("candidates", scattered("candidates", [broken, broken], lambda *_: None, 2), 2)
    with pytest.raises(FunnelError):
        await place.call(asyncio.get_running_loop().time() + 2e9)
    assert "a shard gave no answer: candidates 1 of 2: error" in [line["message"] for line in lines()]
    assert CANARY not in json.dumps(lines())


def test_pseudonyms_depend_on_the_key_and_on_the_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Pseudonyms(b"one"), Pseudonyms(b"other")
    assert one.text("u1") == Pseudonyms(b"one").text("u1") != other.text("u1")
    assert one.number("u1") == Pseudonyms(b"one").number("u1") != other.number("u1")
    assert f"{one.number('u1'):016x}" not in one.text("u1")
    monkeypatch.setenv(KEY_VARIABLE, "one")
    assert Pseudonyms.of(b"made at the start").text("u1") == one.text("u1")
    monkeypatch.delenv(KEY_VARIABLE)
    assert Pseudonyms.of(b"made at the start").text("u1") == Pseudonyms(b"made at the start").text("u1")
