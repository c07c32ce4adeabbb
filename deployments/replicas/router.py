"""Which replica of a stage a batch goes to: the one to which this caller has the fewest outstanding.

Serve's default takes the better of two by the queue lengths that replicas report. Over gRPC a report comes with the
answer, says how it was when the batch was accepted, and replaces what the caller knows itself: batches waited almost as
if replicas were chosen by chance (benchmarks/NOTES.md). A count of what is outstanding is always up to date. (Envoy's
least-request balancing goes by it.)
"""

from __future__ import annotations

import random
from collections import Counter

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

_MOST = 16
"""Replicas compared, drawn at random where there are more."""


class LeastOutstanding(FIFOMixin, RequestRouter):
    """For a deployment's `request_router_config`; one per handle. Serve picks the shortest of the queues that it has
    cached, and asks for those that it hasn't; here the cache holds our own counts."""

    def initialize_state(self, **_: object) -> None:
        """Called by Serve before the first request."""
        self._outstanding: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """All, or some of many; of equal ones the first is taken. If all are full, Serve waits before it asks again."""
        if pending_request:
            pending_request.routing_context.should_backoff = True
        return [random.sample(candidate_replicas, min(_MOST, len(candidate_replicas)))]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Serve sends a batch to the replica."""
        self._count(replica_id, 1)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """It was answered, rejected, cancelled or lost."""
        self._count(replica_id, -1)

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        """What a replica said: that it is full counts, all else is known better."""
        replica = self.curr_replicas.get(replica_id)
        if replica and num_ongoing_requests >= replica.max_ongoing_requests:
            super().on_new_queue_len_info(replica_id, num_ongoing_requests)

    def decrement_queue_len_cache(self, replica_id: ReplicaID) -> None:
        """`on_request_completed` counts."""

    def _count(self, replica_id: ReplicaID, change: int) -> None:
        outstanding = self._outstanding[replica_id] = max(0, self._outstanding[replica_id] + change)
        cached, replica = self.replica_queue_len_cache.get(replica_id), self.curr_replicas.get(replica_id)
        # One that could not be reached, or was full, is asked by Serve before it gets more.
        if change > 0 or (cached is not None and replica and cached < replica.max_ongoing_requests):
            super().on_new_queue_len_info(replica_id, outstanding)
        if not outstanding:
            del self._outstanding[replica_id]
