"""Routes a batch to the replica to which this caller has the fewest outstanding batches.

Serve's default router picks the better of two replicas by the queue lengths that they report. Over gRPC a report
arrives with the answer, tells the length at the time of acceptance, and replaces the caller's own count. Batches then
waited almost as with random routing (benchmarks/NOTES.md). A count of outstanding batches is always up to date; Envoy's
least-request balancing uses it too.
"""

from __future__ import annotations

import random
from collections import Counter

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

_MOST = 16
"""Replicas compared, drawn at random where there are more."""


class LeastOutstanding(FIFOMixin, RequestRouter):
    """For a deployment's `request_router_config`; one per handle. Serve picks the shortest of the queue lengths in its
    cache, and asks replicas that are not in it. Here the cache holds our own counts."""

    def initialize_state(self, **_: object) -> None:
        """Serve calls it before the first request."""
        self._outstanding: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas to compare. Serve takes the first of equal ones, and waits before it tries full ones again."""
        if pending_request:
            pending_request.routing_context.should_backoff = True
        return [random.sample(candidate_replicas, min(_MOST, len(candidate_replicas)))]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Serve sends a batch to the replica."""
        self._count(replica_id, 1)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """The batch was answered, rejected, cancelled or lost."""
        self._count(replica_id, -1)

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        """A replica's report counts only if the replica is full; otherwise our own count is newer."""
        replica = self.curr_replicas.get(replica_id)
        if replica and num_ongoing_requests >= replica.max_ongoing_requests:
            super().on_new_queue_len_info(replica_id, num_ongoing_requests)

    def decrement_queue_len_cache(self, replica_id: ReplicaID) -> None:
        """Does nothing: `on_request_completed` counts."""

    def _count(self, replica_id: ReplicaID, change: int) -> None:
        outstanding = self._outstanding[replica_id] = max(0, self._outstanding[replica_id] + change)
        cached, replica = self.replica_queue_len_cache.get(replica_id), self.curr_replicas.get(replica_id)
        # Serve asks a replica that was full, or could not be reached, before it sends more.
        if change > 0 or (cached is not None and replica and cached < replica.max_ongoing_requests):
            super().on_new_queue_len_info(replica_id, outstanding)
        if not outstanding:
            del self._outstanding[replica_id]
