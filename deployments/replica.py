"""A stage behind a Serve deployment: the replica's side (`StageReplica`) and the pipeline's side (`remote`)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import faiss
import ray
import torch
from pydantic import BaseModel
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle

from deployments.errors import DeadlineExceeded, StageFailed
from deployments.joiner import Joiner
from deployments.messages import Batch
from deployments.models.artifact import Artifact
from deployments.recording import warm_up
from deployments.stage import Batches, Stage, Start
from deployments.totals import Totals

HUNG_S = 60.0
"""A call that computes for longer than any deadline has hung."""

METHODS = ("__call__", "similar")
"""What a handle may call on a stage."""


@dataclass(frozen=True)
class StageFactory:
    """How to build a stage: its class (called with the artifact and the config) and its config."""

    stage: type[Any]
    config: BaseModel

    def build(self, artifact: Artifact) -> Stage:
        """The stage, loaded and warmed up."""
        built: Stage = self.stage(artifact, self.config)
        warm_up(built, artifact)
        return built


def own_devices() -> None:
    """Hides the node's GPUs from a replica that was given none; Ray 2.60 leaves them visible."""
    if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def set_threads(threads: int) -> None:
    """Limits torch and Faiss in this process to the replica's share of the CPU."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


class StageReplica:
    """Holds one stage; keeps its compute off the event loop. A deadline that passed in the queue is not started.

    `slots`: batches computed at a time, others join meanwhile up to `max_rows`; `threads`: cores each may use.
    """

    def __init__(self, factory: StageFactory, artifact: str, slots: int, max_rows: int, threads: int) -> None:
        own_devices()
        set_threads(threads)
        self._stage = factory.build(Artifact.open(artifact))
        pool = ThreadPoolExecutor(slots, factory.stage.__name__, initializer=set_threads, initargs=(threads,))
        self._methods = {
            name: self._timed(getattr(self._stage, name)) for name in METHODS if hasattr(self._stage, name)
        }
        self._joiner = Joiner(pool, slots, max_rows)
        self._running: dict[int, float] = {}
        self._totals, self._slots, self._max_rows = Totals(), slots, max_rows
        self._waiting = 0

    async def run(self, method: str, deadline: float, *batches: Batch) -> Batch:
        """Calls `method` of the stage. `deadline`: Unix seconds.

        Raises:
            DeadlineExceeded: it passed before the call's turn came.
        """
        rows = len(batches[0])
        self._totals.add(arrivals=rows)
        self._waiting += rows
        try:
            answer = await self._joiner.call(self._methods[method], deadline, batches)
            self._totals.add(completions=rows)
            return answer
        except DeadlineExceeded:
            self._totals.add(expired=rows)
            raise
        finally:
            self._waiting -= rows

    def _timed(self, method: Callable[..., Batch]) -> Callable[..., Batch]:
        def timed(*batches: Batch) -> Batch:
            thread = threading.get_ident()
            self._running[thread] = time.monotonic()
            try:
                return method(*batches)
            finally:
                began = self._running.pop(thread)
                self._totals.add(busy_s=time.monotonic() - began, batches=1, items=len(batches[0]))

        return timed

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, which hands them to the autoscaling policy."""
        return self._totals.stats(self._waiting, self._slots, self._max_rows)

    def check_health(self) -> None:
        """For Serve: fails, so that the replica is replaced, if a call has hung."""
        longest_s = time.monotonic() - min(list(self._running.values()), default=time.monotonic())
        if longest_s > HUNG_S:
            raise RuntimeError(f"a call has been running for {longest_s:.0f} s")


def remote(name: str, handle: DeploymentHandle[Any], method: str = "__call__") -> Start:
    """Calls the stage's replicas through `handle`. A call whose replica died is made once more, if there is time.

    Messages are of importable classes, so plain pickle takes them: half the time of cloudpickle (benchmarks/NOTES.md).
    """
    run: Any = handle.options(method_name="run", request_serialization="pickle", response_serialization="pickle")

    async def start(deadline: float, batches: Batches) -> Batch:
        try:
            return await run.remote(method, deadline, *batches)  # type: ignore[no-any-return]
        except RayActorError:
            if time.time() >= deadline:
                raise StageFailed(name, "lost", "its replica died and no time is left to ask another") from None
        try:
            return await run.remote(method, deadline, *batches)  # type: ignore[no-any-return]
        except RayActorError:
            raise StageFailed(name, "lost", "two of its replicas died during one call") from None

    return start
