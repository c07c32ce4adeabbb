"""Which replica a batch goes to, with Serve's own router around the rule; its replicas are stand-ins."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from deployments.replicas.router import LeastOutstanding

STAGE = DeploymentID("Scorer", "recommender")
SENT = 4


@dataclass
class Replica:
    """What the router asks of a replica."""

    name: str
    queue: int = 0
    max_ongoing_requests: int = 8
    multiplexed_model_ids: set[str] = field(default_factory=set)
    node_id = availability_zone = ""
    asked: int = 0

    @property
    def replica_id(self) -> ReplicaID:
        return ReplicaID(self.name, STAGE)

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.asked += 1
        return self.queue


async def router_of(*replicas: Replica) -> LeastOutstanding:
    router = LeastOutstanding(STAGE, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True)
    router.initialize_state()
    router.update_replicas(list(replicas))  # type: ignore[arg-type]
    return router


async def send(router: LeastOutstanding) -> str:
    """Routes one batch as Serve does; the replica's name."""
    request = PendingRequest([], {}, RequestMetadata("request", "request"))
    replica = await asyncio.wait_for(router._choose_replica_for_request(request), 5)
    router.on_send_request(replica.replica_id)
    return replica.replica_id.unique_id


def answered(router: LeastOutstanding, replica: Replica, reported: int) -> None:
    """The callbacks of an answer over gRPC; `reported`: the queue when the batch was accepted."""
    router.on_new_queue_len_info(replica.replica_id, reported)
    router.on_request_completed(replica.replica_id, "request")
    router.decrement_queue_len_cache(replica.replica_id)


def test_batches_are_spread_evenly() -> None:
    async def run() -> None:
        router = await router_of(*[Replica(name) for name in "abc"])
        assert set(Counter([await send(router) for _ in range(3 * SENT)]).values()) == {SENT}

    asyncio.run(run())


def test_the_next_goes_where_the_fewest_are_whatever_was_reported_before() -> None:
    async def run() -> None:
        replicas = {name: Replica(name) for name in "abc"}
        router = await router_of(*replicas.values())
        for _ in range(3 * SENT):
            await send(router)
        for _ in range(2):
            answered(router, replicas["b"], reported=7)
        assert [await send(router) for _ in range(2)] == ["b", "b"]
        answered(router, replicas["a"], reported=1)
        assert await send(router) == "a"

    asyncio.run(run())


def test_a_full_replica_is_asked_before_it_gets_more() -> None:
    async def run() -> None:
        full, other = Replica("a"), Replica("b")
        router = await router_of(full, other)
        for _ in range(SENT):
            await send(router)
        full.queue = full.max_ongoing_requests  # others filled it
        answered(router, full, reported=full.queue)  # so that it rejected a batch
        assert [await send(router) for _ in range(3)] == ["b"] * 3
        full.queue = 0
        await send(router)
        await asyncio.sleep(0.05)
        assert await send(router) == "a", "it was asked meanwhile"

    asyncio.run(run())


def test_what_a_lost_replica_gives_back_draws_no_more_to_it() -> None:
    async def run() -> None:
        lost, other = Replica("a"), Replica("b")
        router = await router_of(lost, other)
        for _ in range(SENT):
            await send(router)
        lost.queue = lost.max_ongoing_requests  # whoever asks it learns that it takes no more
        router.on_replica_actor_unavailable(lost.replica_id)
        for _ in range(SENT // 2):
            router.on_request_completed(lost.replica_id, "request")
        assert [await send(router) for _ in range(3)] == ["b"] * 3

    asyncio.run(run())


def test_serve_waits_before_it_asks_full_replicas_again() -> None:
    async def run() -> None:
        full = Replica("a", queue=8)
        router = await router_of(full)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send(router), 0.3)
        assert full.asked < 10
        full.queue = 0
        assert await send(router) == "a"

    asyncio.run(run())


def test_counts_never_fall_below_zero_and_are_forgotten() -> None:
    async def run() -> None:
        replica = Replica("a")
        router = await router_of(replica)
        await send(router)
        for _ in range(3):
            answered(router, replica, reported=1)
        assert not router._outstanding

    asyncio.run(run())
