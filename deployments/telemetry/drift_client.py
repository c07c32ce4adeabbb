"""The ingress' side of drift: buffers answered batches, measures a sample of them and sends it to the drift actor.

The request path pays only for appending a batch to a buffer. Sampling, measuring and sending run every few seconds in a
thread. A sample that the actor does not accept is dropped and counted; no request waits for it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from deployments.errors import NoSuchReport, Unavailable
from deployments.pipeline.batch import BatchState
from deployments.telemetry.answered_batch import AnsweredBatch
from deployments.telemetry.drift_signals import DriftSignals
from monitoring.drift.detector import DriftSample
from monitoring.drift.drift_config import DriftConfig
from monitoring.drift.online_quality import Feedback, ShownAnswer, is_sampled
from monitoring.drift.sampling import Sampler, StratumAndUser
from monitoring.logs.pseudonyms import Pseudonyms
from monitoring.metrics.replica_metrics import ReplicaMetrics

log = logging.getLogger("rayfunnel.watch")

DriftCall = Callable[..., Awaitable[Any]]
"""(method of `DriftServer`, arguments) → its result; may raise any exception."""

_BatchAndUsers = tuple[AnsweredBatch, list[str]]


class DriftClient:
    """Belongs to one event loop. `call`: calls the drift actor. `pseudonyms`: the same in every replica, so that a user
    has one pseudonym in all samples; user ids never leave the ingress.
    """

    def __init__(
        self,
        signals: DriftSignals,
        call: DriftCall,
        config: DriftConfig,
        model_version: str,
        replica: str,
        metrics: ReplicaMetrics,
        pseudonyms: Pseudonyms,
    ) -> None:
        self._pseudonyms = pseudonyms
        self._signals, self._call, self._config = signals, call, config
        self._model_version, self._replica, self._metrics = model_version, replica, metrics
        self._sampler: Sampler[_BatchAndUsers] = Sampler(_describe, lambda batch: len(batch[1]), config.sampling)
        self._shown: deque[ShownAnswer] = deque(maxlen=config.sampling.buffer_rows)
        self._feedback: deque[Feedback] = deque(maxlen=config.sampling.buffer_rows)
        self._loop: asyncio.Task[None] | None = None

    def answered(self, batch: BatchState) -> None:
        """Buffers an answered batch."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())
        users = [pending.query.user_id for pending in batch.pending_requests]
        self._sampler.offer((AnsweredBatch.of(batch), users))

    def shown(self, request_id: str, items: list[int], degraded: bool) -> None:
        """Buffers an answer for online quality. `items`: catalogue positions, best first."""
        if is_sampled(request_id, self._config.exposure.share):
            self._shown.append((request_id, tuple(items), degraded))

    def event(self, request_id: str, item: int, weight: float) -> None:
        """Buffers an event on an item of an answer."""
        if is_sampled(request_id, self._config.exposure.share):
            self._feedback.append((request_id, item, weight))

    async def report(self) -> dict[str, Any]:
        """The actor's drift report.

        Raises:
            Unavailable: the actor does not answer in time.
        """
        found: dict[str, Any] = await self._ask("report")
        return found

    async def page(self, name: str) -> str:
        """The HTML of an Evidently report.

        Raises:
            NoSuchReport: there is no report of that name.
            Unavailable: the actor does not answer in time.
        """
        found: str | None = await self._ask("page", name)
        if found is None:
            raise NoSuchReport(f"there is no report {name[:60]!r}; GET /v1/drift lists the reports that are kept")
        return found

    async def send(self) -> None:
        """Measures a sample of the buffer and sends it; a sample that can't be sent is dropped and counted."""
        sample = await asyncio.to_thread(self._sample, _emptied(self._shown), _emptied(self._feedback))
        rows = len(sample.users_B)
        try:
            verdicts = await asyncio.wait_for(self._call("add", sample), self._config.sampling.every_s + 3)
        except Exception as error:
            log.warning("the drift actor did not take a sample", exc_info=error)
            self._metrics.drift(None, lost=rows, dropped=self._sampler.dropped)
            return
        self._metrics.drift(verdicts, sent=rows, dropped=self._sampler.dropped)

    def _sample(self, shown: Sequence[ShownAnswer], feedback: list[Feedback]) -> DriftSample:
        drawn = self._sampler.draw()
        rows = None
        if drawn:
            weights = np.array([weight for part in drawn for weight in part.weights])
            rows = self._signals(AnsweredBatch.concat([part.batch[0].take(part.rows) for part in drawn]), weights)
        users = [self._pseudonyms.number(str(user)) for part in drawn for user in part.users]
        return DriftSample(
            replica=self._replica,
            model_version=self._model_version,
            rows=rows,
            users_B=np.array(users, np.uint64),
            shown=shown,
            feedback=feedback,
            dropped=self._sampler.dropped,
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._config.sampling.every_s)
            try:
                await self.send()
            except Exception:  # a bug must not end the loop: the next sample may work
                log.exception("a sample for drift was not made")

    async def _ask(self, method: str, *args: object) -> Any:
        try:
            return await asyncio.wait_for(self._call(method, *args), self._config.answer_s)
        except Exception as error:
            why = "in time" if isinstance(error, TimeoutError) else f"({type(error).__name__})"
            raise Unavailable(f"the drift actor does not answer {why}; it is restarted if dead, retry later") from error


def _describe(batch: _BatchAndUsers) -> list[StratumAndUser | None]:
    cold = batch[0].profiles.cold_B.tolist()
    # A warm-up request has no user.
    return [
        ("new" if is_cold else "known", user) if user else None for is_cold, user in zip(cold, batch[1], strict=True)
    ]


def _emptied(buffer: deque[Any]) -> list[Any]:
    found = list(buffer)
    buffer.clear()
    return found
