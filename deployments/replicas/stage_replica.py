"""A stage as a Serve deployment: `StageReplica` runs it, `remote` calls it from the pipeline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
from pydantic import BaseModel
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from deployments.artifact.reader import Artifact
from deployments.errors import DeadlineExceeded, StageFailed
from deployments.messages import Batch
from deployments.models.backends.runtime import freeze_garbage_collector, loaded_torch, set_threads
from deployments.pipeline.call_batcher import CallBatcher
from deployments.pipeline.replica_stats import ReplicaStats
from deployments.pipeline.stage_client import Batches, Start
from deployments.replicas.gpu_share import take_share
from deployments.replicas.metrics_hub import hub_call
from deployments.replicas.replica_logs import replica_logs
from deployments.stages.contract import Stage
from deployments.stages.oom_guard import OomGuard
from deployments.stages.warm_up import warm_up
from deployments.telemetry.durable_aggregator import MetricsConfig
from deployments.telemetry.metrics_reporter import MetricsReporter
from monitoring.logs.context import BatchLogContext, current_batch, log_context
from monitoring.logs.setup import LogConfig
from monitoring.metrics.replica_metrics import ReplicaMetrics

HUNG_S = 60.0
"""A call that runs longer is taken as hung; no deadline is longer."""

METHODS = ("__call__", "similar")
"""The methods of a stage that a handle may call."""


@dataclass(frozen=True)
class StageFactory:
    """Builds a stage: its class is called with the artifact and the config. `logs`: how its replica logs."""

    stage: type[Any]
    config: BaseModel
    logs: LogConfig

    def build(self, artifact: Artifact) -> Stage:
        """The stage, loaded and warmed up."""
        built: Stage = self.stage(artifact, self.config)
        warm_up(built, artifact)
        return built


def bound_gpu() -> None:
    """Bounds this process to the GPU share that Ray gave its replica. Without a share the node's GPUs are hidden."""
    take_share(assigned("GPU"))


def assigned(resource: str) -> float:
    """The amount of `resource` that Ray gave this replica."""
    context: Any = ray.get_runtime_context()
    return float(context.get_assigned_resources().get(resource, 0.0))


class StageReplica:
    """Runs one stage. Long calls run on threads, not on the event loop. A call whose deadline has passed is not
    started.

    `model_version`: the only one that `artifact` may have; empty: any. `slots`: batches computed at a time; calls that
    wait are joined, up to `max_rows` rows. `threads`: cores per batch. `hub`: the metrics hub.
    """

    def __init__(
        self,
        factory: StageFactory,
        artifact: str,
        model_version: str,
        slots: int,
        max_rows: int,
        threads: int,
        metrics: MetricsConfig,
        hub: DeploymentHandle[Any] | None,
    ) -> None:
        replica_logs(factory.logs)
        bound_gpu()
        set_threads(threads)
        # Kept: while it is open, no training removes its folder.
        self._artifact = Artifact.open(artifact, model_version)
        self._stage = factory.build(self._artifact)
        pool = ThreadPoolExecutor(slots, factory.stage.__name__, initializer=set_threads, initargs=(threads,))
        self._oom_guard = OomGuard(max_rows)
        self._methods = {
            name: self._oom_guard.guarded(self._timed(getattr(self._stage, name)))
            for name in METHODS
            if hasattr(self._stage, name)
        }
        self._call_batcher = CallBatcher(pool, slots, max_rows)
        self._running: dict[int, float] = {}
        self._stats, self._slots = ReplicaStats(), slots
        self._shares = {"num_cpus": assigned("CPU"), "num_gpus": assigned("GPU")}
        self._waiting = 0
        context = serve.get_replica_context()
        self._metrics = ReplicaMetrics(context.replica_tag, context.deployment)
        torch = loaded_torch()
        gpu = torch is not None and torch.cuda.is_available()
        self._reporter = MetricsReporter(self._metrics, hub_call(hub), metrics, lambda: self._waiting, gpu)
        self._reporter.start()
        freeze_garbage_collector()

    async def run(self, method: str, deadline: float, record: BatchLogContext, *batches: Batch) -> Batch:
        """Calls `method` of the stage. `deadline`: Unix seconds. `record`: the ids that log lines about it carry.

        Raises:
            DeadlineExceeded: the call was not started, since it would have ended too late.
        """
        log_context.set(record)
        rows = len(batches[0])
        self._stats.add(arrivals=rows)
        self._waiting += rows
        outcome = "failed"
        try:
            answer = await self._call_batcher.call(self._methods[method], deadline, batches)
            self._stats.add(completions=rows)
            outcome = "completed"
            return answer
        except DeadlineExceeded:
            self._stats.add(expired=rows)
            outcome = "expired"
            raise
        finally:
            self._waiting -= rows
            self._metrics.stage_requests(outcome, rows)

    def _timed(self, method: Callable[..., Batch]) -> Callable[..., Batch]:
        def timed(*batches: Batch) -> Batch:
            thread = threading.get_ident()
            self._running[thread] = time.monotonic()
            try:
                return method(*batches)
            finally:
                took_s = time.monotonic() - self._running.pop(thread)
                self._stats.add(busy_s=took_s, batches=1, items=len(batches[0]))
                self._metrics.computed(len(batches[0]), took_s)

        return timed

    def record_autoscaling_stats(self) -> dict[str, float]:
        """The counters of this replica. Serve passes them to the autoscaling policy."""
        return self._stats.stats(self._waiting, self._slots, self._oom_guard.rows, **self._shares)

    async def __del__(self) -> None:
        """Serve calls it before it ends the replica: sends the last metrics."""
        if hasattr(self, "_reporter"):
            await self._reporter.close()

    def check_health(self) -> None:
        """Raises if a call hangs; Serve then replaces the replica."""
        longest_s = time.monotonic() - min(list(self._running.values()), default=time.monotonic())
        if longest_s > HUNG_S:
            raise RuntimeError(f"a call has been running for {longest_s:.0f} s")


def remote(name: str, handle: DeploymentHandle[Any], method: str = "__call__") -> Start:
    """Starts calls at the stage's replicas through `handle`. If the replica dies, the call is made once more, if there
    is time.

    Messages are instances of importable classes, so plain pickle serializes them, in half the time of cloudpickle
    (benchmarks/NOTES.md).
    """
    run: Any = handle.options(method_name="run", request_serialization="pickle", response_serialization="pickle")

    async def start(deadline: float, batches: Batches) -> Batch:
        record = current_batch()
        try:
            return await run.remote(method, deadline, record, *batches)  # type: ignore[no-any-return]
        except RayActorError:
            if time.time() >= deadline:
                raise StageFailed(name, "lost", "its replica died and no time is left to ask another") from None
        try:
            return await run.remote(method, deadline, record, *batches)  # type: ignore[no-any-return]
        except RayActorError:
            raise StageFailed(name, "lost", "two of its replicas died during one call") from None

    return start
