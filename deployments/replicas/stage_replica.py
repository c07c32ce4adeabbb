"""A stage behind a Serve deployment: the replica's side (`StageReplica`) and the pipeline's side (`remote`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
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
from deployments.messages import Batch, CandidateBatch
from deployments.models.backends.runtime import loaded, set_threads, torch_here
from deployments.pipeline.replica_stats import ReplicaStats
from deployments.pipeline.request_coalescer import RequestCoalescer
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
"""A call that computes for longer than any deadline has hung."""

METHODS = ("__call__", "similar")
"""What a handle may call on a stage."""


@dataclass(frozen=True)
class StageFactory:
    """How to build a stage: its class, called with the artifact and the config; `logs`: how its replica logs."""

    stage: type[Any]
    config: BaseModel
    logs: LogConfig

    def build(self, artifact: Artifact) -> Stage:
        """The stage, loaded and warmed up."""
        built: Stage = self.stage(artifact, self.config)
        warm_up(built, artifact)
        return built


def own_devices() -> None:
    """Bounds this process to the GPU share that Ray gave its replica; without one the node's GPUs are hidden."""
    take_share(assigned("GPU"))


def assigned(resource: str) -> float:
    """How much of `resource` Ray gave this replica."""
    context: Any = ray.get_runtime_context()
    return float(context.get_assigned_resources().get(resource, 0.0))


class StageReplica:
    """Holds one stage; keeps long calls off the event loop. A deadline that passed in the queue is not started.

    `slots`: batches computed at a time, others join meanwhile up to `max_rows`; `threads`: cores each may use; `hub`:
    where its metrics go.
    """

    def __init__(
        self,
        factory: StageFactory,
        artifact: str,
        slots: int,
        max_rows: int,
        threads: int,
        metrics: MetricsConfig,
        hub: DeploymentHandle[Any] | None,
    ) -> None:
        replica_logs(factory.logs)
        own_devices()
        set_threads(threads)
        self._stage = factory.build(Artifact.open(artifact))
        pool = ThreadPoolExecutor(slots, factory.stage.__name__, initializer=set_threads, initargs=(threads,))
        self._limit = OomGuard(max_rows)
        self._methods = {
            name: self._limit.guarded(self._timed(getattr(self._stage, name)))
            for name in METHODS
            if hasattr(self._stage, name)
        }
        self._coalescer = RequestCoalescer(pool, slots, max_rows)
        self._running: dict[int, float] = {}
        self._totals, self._slots = ReplicaStats(), slots
        self._shares = {"num_cpus": assigned("CPU"), "num_gpus": assigned("GPU")}
        self._waiting = 0
        context = serve.get_replica_context()
        self._metrics = ReplicaMetrics(context.replica_tag, context.deployment)
        torch = torch_here()
        gpu = torch is not None and torch.cuda.is_available()
        self._reporter = MetricsReporter(self._metrics, hub_call(hub), metrics, lambda: self._waiting, gpu)
        self._reporter.start()
        loaded()

    async def run(self, method: str, deadline: float, lines: BatchLogContext, *batches: Batch) -> Batch:
        """Calls `method` of the stage. `deadline`: Unix seconds; `lines`: what those about it carry.

        Raises:
            DeadlineExceeded: it passed before the call's turn came.
        """
        log_context.set(lines)
        rows = len(batches[0])
        self._totals.add(arrivals=rows)
        self._waiting += rows
        outcome = "failed"
        try:
            answer = await self._coalescer.call(self._methods[method], deadline, batches)
            self._totals.add(completions=rows)
            outcome = "completed"
            return answer
        except DeadlineExceeded:
            self._totals.add(expired=rows)
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
                self._totals.add(busy_s=took_s, batches=1, items=_full_rows(batches))
                self._metrics.computed(len(batches[0]), took_s)

        return timed

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, which hands them to the autoscaling policy."""
        return self._totals.stats(self._waiting, self._slots, self._limit.rows, **self._shares)

    async def __del__(self) -> None:
        """Called by Serve before it ends the replica: what was counted since the last snapshot is not lost."""
        if hasattr(self, "_reporter"):
            await self._reporter.close()

    def check_health(self) -> None:
        """For Serve: fails, so that the replica is replaced, if a call has hung."""
        longest_s = time.monotonic() - min(list(self._running.values()), default=time.monotonic())
        if longest_s > HUNG_S:
            raise RuntimeError(f"a call has been running for {longest_s:.0f} s")


def _full_rows(batches: Sequence[Batch]) -> float:
    """Requests in the batch. Those with a share of their candidates count for that share: a batch that was cut must not
    look to the policy like a fast one."""
    shares = (batch.share for batch in batches if isinstance(batch, CandidateBatch))
    return len(batches[0]) * min(shares, default=1.0)


def remote(name: str, handle: DeploymentHandle[Any], method: str = "__call__") -> Start:
    """Calls the stage's replicas through `handle`. A call whose replica died is made once more, if there is time.

    Messages are of importable classes, so plain pickle takes them: half the time of cloudpickle (benchmarks/NOTES.md).
    """
    run: Any = handle.options(method_name="run", request_serialization="pickle", response_serialization="pickle")

    async def start(deadline: float, batches: Batches) -> Batch:
        lines = current_batch()
        try:
            return await run.remote(method, deadline, lines, *batches)  # type: ignore[no-any-return]
        except RayActorError:
            if time.time() >= deadline:
                raise StageFailed(name, "lost", "its replica died and no time is left to ask another") from None
        try:
            return await run.remote(method, deadline, lines, *batches)  # type: ignore[no-any-return]
        except RayActorError:
            raise StageFailed(name, "lost", "two of its replicas died during one call") from None

    return start
