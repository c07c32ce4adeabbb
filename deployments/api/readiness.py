"""When an ingress replica is ready: once every stage has answered a request of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from deployments.errors import StoreUnavailable, Unavailable
from deployments.pipeline.pipeline import Pipeline
from deployments.pipeline.request import Query
from deployments.store.base import Store

log = logging.getLogger("rayfunnel.service")

WARM_UP_DEADLINE_S = 30.0
"""Deadline of a warm-up request: the replicas load their stage meanwhile."""


class Readiness:
    """Warms the funnel of one ingress replica up, and reports its health."""

    def __init__(self, pipeline: Pipeline, store: Store, model_version: str) -> None:
        self._pipeline, self._store, self._model_version = pipeline, store, model_version
        self._missing = ["the first answer"]

    async def warm_up(self) -> None:
        """Sends requests through the funnel until every stage has answered; from then on `health` is ready."""
        while self._missing:
            try:
                answer = await self._pipeline.ask(Query(user_id="", n=1, deadline=time.time() + WARM_UP_DEADLINE_S))
                self._missing = [reason for reason in answer.degraded if not reason.startswith("profile:store")]
            except Exception as error:
                log.exception("a warm-up request failed")
                self._missing = [str(error)]
            if self._missing:
                await asyncio.sleep(0.2)

    async def health(self) -> dict[str, Any]:
        """`{"status": "ready", …}`; `store`: whether the store answers (without it the answers are degraded);
        `scoring`: whether the model runs on the backend that is configured.

        Raises:
            Unavailable: a stage has not answered yet.
        """
        if self._missing:
            raise Unavailable(f"not ready yet; waiting for {', '.join(self._missing)}")
        try:
            await self._store.ping()
            store = "ok"
        except StoreUnavailable as error:
            store = str(error)
        scoring = self._pipeline.fallback_backend or "as configured"
        return {"status": "ready", "model_version": self._model_version, "store": store, "scoring": scoring}
