"""OpenTelemetry: what each stage took, as spans of the request's trace. Off unless Ray Serve's tracing is on.

Serve opens a span per request from the caller's `traceparent`, and exports (`tracing_config:` in serve_config.yaml). A
batch carries many requests, so the stages' spans are made when a request is answered, one set under each request's own
span, with the times that the pipeline took: every trace is whole in itself, which links to a batch's trace would not
be in most viewers, only requests that are sampled pay, and the pipeline knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry import trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor


def current_span() -> trace.Span | None:
    """The span of the request that is answered here; None: tracing is off, or this one is not sampled."""
    span = trace.get_current_span()
    return span if span.is_recording() else None


def on() -> bool:
    """Whether Serve traces requests; asked where it has begun to answer one, be that sampled or not."""
    return trace.get_current_span().get_span_context().is_valid


def trace_id(span: trace.Span) -> str:
    """32 hexadecimal digits."""
    return trace.format_trace_id(span.get_span_context().trace_id)


def stages(span: trace.Span, began: float, timings_ms: Mapping[str, float], facts: Mapping[str, str | int]) -> None:
    """Spans under `span`, one after the other; at `began` (Unix seconds) `queue` ended and the first stage started.
    `facts`: attributes of each.
    """
    tracer = trace.get_tracer("rayfunnel")
    parent = trace.set_span_in_context(span)
    at = int((began - timings_ms.get("queue", 0.0) / 1e3) * 1e9)
    for stage, milliseconds in timings_ms.items():
        child = tracer.start_span(stage, parent, start_time=at, attributes=dict(facts))
        at += int(milliseconds * 1e6)
        child.end(at)


def otlp() -> list[SpanProcessor]:
    """For `tracing_config: {exporter_import_path: monitoring.logs.tracing:otlp}`: sends spans in the background, to
    the OTEL_EXPORTER_OTLP_ENDPOINT (extra `otel`)."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]
