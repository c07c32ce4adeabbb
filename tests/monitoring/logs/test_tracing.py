"""Traces: every stage of a request is a span of the request's trace, also if requests share a batch."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from deployments.api.operations import Recommender
from deployments.assembly import FunnelConfig
from deployments.pipeline.pipeline import STAGES
from deployments.store.memory import MemoryStore
from monitoring.logs import tracing

Build = Callable[..., Recommender]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans of the test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", lambda name: provider.get_tracer(name))
    return exporter


async def traced(recommender: Recommender, user: str, trace_id: str) -> dict[str, Any]:
    """Calls as Serve does: in a span that continues the caller's."""
    parent = TraceContextTextMapPropagator().extract({"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    with trace.get_tracer("serve").start_as_current_span("request", parent):
        return await recommender.recommend({"user_id": user, "deadline_ms": 20_000})


def of(spans: InMemorySpanExporter, trace_id: str) -> dict[str, ReadableSpan]:
    return {s.name: s for s in spans.get_finished_spans() if trace.format_trace_id(s.context.trace_id) == trace_id}


async def test_the_stages_of_each_request_in_a_batch_are_spans_of_its_own_trace(
    in_process: Build, store: MemoryStore, spans: InMemorySpanExporter
) -> None:
    recommender = in_process(store, FunnelConfig())
    ids = [f"{n:032x}" for n in range(1, 4)]
    answers = await asyncio.gather(*(traced(recommender, f"u{n}", trace_id) for n, trace_id in enumerate(ids)))
    assert all(answer["degraded"] == [] for answer in answers)
    batches = set()
    for trace_id in ids:
        found = of(spans, trace_id)
        assert set(found) == {"request", "queue", *STAGES}
        whole = found.pop("request")
        assert {span.parent.span_id for span in found.values() if span.parent} == {whole.context.span_id}
        in_order = [found[name] for name in ("queue", *STAGES)]
        assert all(one.end_time <= other.start_time for one, other in itertools.pairwise(in_order))
        assert in_order[-1].end_time <= whole.end_time
        facts = [span.attributes or {} for span in in_order]
        batches |= {(fact["rayfunnel.batch.id"], fact["rayfunnel.batch.size"]) for fact in facts}
    assert len(batches) == 1
    assert batches.pop()[1] == 3


async def test_without_a_span_nothing_is_traced(
    in_process: Build, store: MemoryStore, spans: InMemorySpanExporter
) -> None:
    await in_process(store, FunnelConfig()).recommend({"user_id": "u1", "deadline_ms": 20_000})
    assert spans.get_finished_spans() == ()


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """An OTLP/HTTP endpoint, and the calls it received."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_spans_reach_an_otlp_collector(
    collector: tuple[str, list[tuple[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, got = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    provider = TracerProvider(shutdown_on_exit=False)
    for processor in tracing.otlp():
        provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("scoring").end()
    provider.shutdown()
    assert [path for path, _ in got] == ["/v1/traces"]
