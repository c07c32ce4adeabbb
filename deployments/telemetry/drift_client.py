"""The ingress' side of drift: takes what was answered, and sends a measured sample of it to the actor.

The path pays for a few columns per batch. All else is done every few seconds, in a thread; a sample that the actor does
not take is lost and counted, and no recommendation waits for any of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from deployments.errors import NoSuchReport, Unavailable
from deployments.pipeline.batch import BatchState
from deployments.telemetry.drift_signals import DriftSignals, Served, served
from monitoring.drift.monitor import DriftConfig, Sample
from monitoring.drift.online_quality import Feedback, Shown, followed
from monitoring.drift.sampling import Row, Sampler
from monitoring.logs.request_log import Pseudonyms
from monitoring.metrics.replica_metrics import FunnelMetrics

log = logging.getLogger("rayfunnel.watch")

Call = Callable[..., Awaitable[Any]]
"""(method, arguments) → what the actor answers."""

_Batch = tuple[Served, list[str]]
"""What was answered, and whom."""


class DriftClient:
    """Belongs to one event loop. `call`: reaches the actor; raises whatever it likes. `pseudonyms`: the same in every
    replica, so that their samples can be told apart by user and no id leaves the ingress.
    """

    def __init__(
        self,
        measures: DriftSignals,
        call: Call,
        config: DriftConfig,
        model_version: str,
        replica: str,
        metrics: FunnelMetrics,
        pseudonyms: Pseudonyms,
    ) -> None:
        self._pseudonyms = pseudonyms
        self._measures, self._call, self._config = measures, call, config
        self._model_version, self._replica, self._metrics = model_version, replica, metrics
        self._sampler: Sampler[_Batch] = Sampler(_describe, lambda batch: len(batch[1]), config.sampling)
        self._shown: deque[tuple[str, tuple[int, ...], bool]] = deque(maxlen=config.sampling.buffer_rows)
        self._feedback: deque[Feedback] = deque(maxlen=config.sampling.buffer_rows)
        self._loop: asyncio.Task[None] | None = None

    def answered(self, batch: BatchState) -> None:
        """A batch was answered."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop().create_task(self._run())
        self._sampler.offer((served(batch), [pending.query.user_id for pending in batch.pending_requests]))

    def shown(self, request_id: str, items: list[int], degraded: bool) -> None:
        """An answer left with this id."""
        if followed(request_id, self._config.exposure.share):
            self._shown.append((request_id, tuple(items), degraded))

    def event(self, request_id: str, item: int, weight: float) -> None:
        """A user did something with an item of an answer."""
        if followed(request_id, self._config.exposure.share):
            self._feedback.append((request_id, item, weight))

    async def report(self) -> dict[str, Any]:
        """The actor's report.

        Raises:
            Unavailable: it does not answer in time.
        """
        found: dict[str, Any] = await self._ask("report")
        return found

    async def page(self, name: str) -> str:
        """The HTML of a deep report.

        Raises:
            NoSuchReport: there is none of that name.
            Unavailable: the actor does not answer in time.
        """
        found: str | None = await self._ask("page", name)
        if found is None:
            raise NoSuchReport(f"there is no report {name[:60]!r}; GET /v1/drift lists those that are kept")
        return found

    async def send(self) -> None:
        """Measures what gathered and sends it; what can't be sent is lost, and counted."""
        sample = await asyncio.to_thread(self._sample, _emptied(self._shown), _emptied(self._feedback))
        rows = len(sample.users_B)
        try:
            verdicts = await asyncio.wait_for(self._call("add", sample), self._config.sampling.every_s + 3)
        except Exception as error:
            log.warning("the drift actor did not take a sample", exc_info=error)
            self._metrics.drift(None, lost=rows, dropped=self._sampler.dropped)
            return
        self._metrics.drift(verdicts, sent=rows, dropped=self._sampler.dropped)

    def _sample(self, shown: Shown, feedback: list[Feedback]) -> Sample:
        drawn = self._sampler.draw()
        rows = None
        if drawn:
            weights = np.array([weight for part in drawn for weight in part.weights])
            rows = self._measures(Served.concat([part.batch[0].take(part.rows) for part in drawn]), weights)
        users = [self._pseudonyms.number(str(user)) for part in drawn for user in part.users]
        return Sample(
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
            except Exception:  # a bug of ours: the next sample is another chance
                log.exception("a sample for drift was not made")

    async def _ask(self, method: str, *args: object) -> Any:
        try:
            return await asyncio.wait_for(self._call(method, *args), self._config.answer_s)
        except Exception as error:
            what = "in time" if isinstance(error, TimeoutError) else f"({type(error).__name__})"
            raise Unavailable(f"the drift actor does not answer {what}; it is replaced if it is dead") from error


def _describe(batch: _Batch) -> list[Row | None]:
    cold = batch[0].profiles.cold_B.tolist()
    # A warm-up request has no user.
    return [
        ("new" if is_cold else "known", user) if user else None for is_cold, user in zip(cold, batch[1], strict=True)
    ]


def _emptied(buffer: deque[Any]) -> list[Any]:
    found = list(buffer)
    buffer.clear()
    return found
