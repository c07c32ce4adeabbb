"""The recommender with a scorer whose device time is emulated, for the live flash crowd. Serving does not import it.

Two cores are too few for many replicas that compute. `EmulatedDeviceReplica` sleeps a + c·b seconds per batch of b, as
long as a device would compute, and returns the retrieval scores; the rest of the funnel, Serve and the policy are real.
It replaces `StageReplica` and does not import torch, whose import by ten replicas at once would occupy both cores.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
from ray import serve
from ray.serve import Application

from deployments.errors import DeadlineExceeded
from deployments.messages import CandidateBatch, ProfileBatch, ScoreBatch
from deployments.pipeline.call_batcher import CallBatcher
from deployments.pipeline.replica_stats import ReplicaStats


class EmulatedDeviceScorer:
    """`a_s` seconds per batch and `c_s` per request in it."""

    def __init__(self, a_s: float, c_s: float) -> None:
        self._a_s, self._c_s = a_s, c_s

    def __call__(self, profiles: ProfileBatch, candidates: CandidateBatch) -> ScoreBatch:
        """The retrieval scores, after the emulated time."""
        time.sleep(self._a_s + self._c_s * len(candidates))
        scores_BK = np.where(candidates.mask_BK, candidates.retrieval_scores_BK, -np.inf).astype(np.float32)
        return ScoreBatch(candidates.model_version, scores_BK, "emulated", "")


class EmulatedDeviceReplica:
    """One emulated device: a batch at a time, of at most `max_rows` requests; counts as `StageReplica` does."""

    def __init__(self, a_s: float, c_s: float, max_rows: int) -> None:
        self._score, self._totals = EmulatedDeviceScorer(a_s, c_s), ReplicaStats()
        self._call_batcher = CallBatcher(ThreadPoolExecutor(1), 1, max_rows)
        self._max_rows, self._waiting = max_rows, 0

    async def run(self, method: str, deadline: float, lines: Any, *batches: Any) -> ScoreBatch:
        """As `StageReplica.run`."""
        rows = len(batches[0])
        self._totals.add(arrivals=rows)
        self._waiting += rows
        try:
            answer: Any = await self._call_batcher.call(self._timed, deadline, batches)
            self._totals.add(completions=rows)
            return answer  # type: ignore[no-any-return]
        except DeadlineExceeded:
            self._totals.add(expired=rows)
            raise
        finally:
            self._waiting -= rows

    def _timed(self, *batches: Any) -> ScoreBatch:
        began = time.monotonic()
        answer = self._score(*batches)
        self._totals.add(busy_s=time.monotonic() - began, batches=1, items=len(batches[0]))
        return answer

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve, which passes them to the autoscaling policy."""
        return self._totals.stats(self._waiting, 1, self._max_rows)


def build(args: dict) -> Application:  # type: ignore[type-arg]
    """As `graphs.recommendation.build`, with the scorer emulated. `emulated`: a_s and c_s."""
    from graphs import recommendation

    device = args.pop("emulated")
    own = recommendation._deployment

    def deployment(name: str, factory: Any, args: Any, artifact: str, config: Any, hub: Any) -> Any:
        if name != "Scorer":
            return own(name, factory, args, artifact, config, hub)
        emulated: Any = serve.deployment(
            EmulatedDeviceReplica,
            name=name,
            **recommendation._replicas(
                args.replicas, args.min_replicas, args.max_replicas, True, recommendation.STAGE_METRICS_S
            ),
            max_ongoing_requests=2 * args.slots * config.ingress.replicas,
            request_router_config=recommendation.ROUTER,
            ray_actor_options={"num_cpus": args.num_cpus},
        )
        return emulated.bind(device["a_s"], device["c_s"], args.max_rows)

    with mock.patch.object(recommendation, "_deployment", deployment):
        return recommendation.build(args)
