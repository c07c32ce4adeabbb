"""The recommender whose overload mechanisms can be switched off while it runs, for A/B runs within one server.

Every ingress replica reads the names of the mechanisms that are off from the file named by RAYFUNNEL_BENCH_SWITCHES.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from ray.serve import Application

import deployments.pipeline.pipeline as pipeline_module
from deployments.api.fast_path.connection import FastPathConnection
from deployments.pipeline.overload.late_work import skip_batch
from deployments.pipeline.pipeline import Pipeline
from deployments.replicas.ingress import Ingress

FILE = "RAYFUNNEL_BENCH_SWITCHES"
_POLL_S = 0.05


def _linger(ingress: SwitchedIngress, on: bool) -> None:
    pipeline = ingress.pipeline
    pipeline._batcher._linger_s = pipeline._batching.linger_ms / 1e3 if on else 0.0


def _join(ingress: SwitchedIngress, on: bool) -> None:
    pipeline_module.JOIN_WITHIN_S = _JOIN_WITHIN_S if on else -1.0


def _late_batches(ingress: SwitchedIngress, on: bool) -> None:
    setattr(pipeline_module, "skip_batch", skip_batch if on else lambda *_: False)  # noqa: B010


def _adaptive_limit(ingress: SwitchedIngress, on: bool) -> None:
    limit = ingress.pipeline.limit
    if on:
        limit.__dict__.pop("observe_wait", None)
    else:
        limit.limit = limit._most
        limit.observe_wait = lambda *_: None  # type: ignore[method-assign]


def _fast_path(ingress: SwitchedIngress, on: bool) -> None:
    setattr(FastPathConnection, "_begin_fast_request", _begin_fast_request if on else lambda _: False)  # noqa: B010


_begin_fast_request = FastPathConnection._begin_fast_request
_JOIN_WITHIN_S = pipeline_module.JOIN_WITHIN_S
MECHANISMS: dict[str, Callable[[SwitchedIngress, bool], None]] = {
    "linger": _linger,
    "join": _join,
    "late-batches": _late_batches,
    "adaptive-limit": _adaptive_limit,
    "fast-path": _fast_path,
}
"""How each mechanism is switched."""


def _poll(switch: Callable[[set[str]], None]) -> None:
    file, last = Path(os.environ[FILE]), None
    while True:
        names = file.read_text() if file.is_file() else ""
        if names != last:
            switch(set(names.split()))
            last = names
        time.sleep(_POLL_S)


class SwitchedIngress(Ingress):
    """An ingress replica that follows the file."""

    async def __init__(self, *args: Any, **stages: Any) -> None:  # type: ignore[misc]
        await super().__init__(*args, **stages)  # type: ignore[misc]
        self.pipeline: Pipeline = self._recommender._pipeline

        def switch(off: set[str]) -> None:
            for name, mechanism in MECHANISMS.items():
                mechanism(self, name not in off)

        threading.Thread(target=_poll, args=(switch,), daemon=True).start()


def build(args: dict) -> Application:  # type: ignore[type-arg]
    """As `graphs.recommendation.build`, with switched ingress replicas."""
    from graphs import recommendation

    with mock.patch.object(recommendation, "Ingress", SwitchedIngress):
        return recommendation.build(args)
