"""OpenTelemetry: a span per stage in the trace of each request. Off unless Ray Serve's tracing is on.

Serve opens a span per request from the caller's `traceparent`, and exports it (`tracing_config:` in serve_config.yaml).
A batch carries many requests, so the spans of the stages are created when a request is answered, under the span of that
request and with the times that the pipeline measured. So every trace is complete (most viewers do not follow links to a
trace of the batch), only sampled requests cost time, and the pipeline needs no tracing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry import trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor


def current_span() -> trace.Span | None:
    """The span of the current request; None: tracing is off, or this request is not sampled."""
    span = trace.get_current_span()
    return span if span.is_recording() else None


def on() -> bool:
    """Whether Serve's tracing is on; call it while a request is processed, sampled or not."""
    return trace.get_current_span().get_span_context().is_valid


def trace_id(span: trace.Span) -> str:
    """32 hexadecimal digits."""
    return trace.format_trace_id(span.get_span_context().trace_id)


def stages(span: trace.Span, began: float, timings_ms: Mapping[str, float], facts: Mapping[str, str | int]) -> None:
    """Creates consecutive spans under `span`, one per stage. `began`: end of `queue` and start of the first stage, Unix
    seconds; `facts`: attributes of each span.
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
