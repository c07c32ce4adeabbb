"""Both stores pass one contract; RedisStore also handles network faults."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.valkey import ValkeyConfig, ValkeySupervisor
from deployments.errors import StoreUnavailable
from deployments.store.base import PASSWORD_VARIABLE, StoreConfig
from deployments.store.memory import MemoryStore
from deployments.store.redis import READ_CONNECTIONS, WRITE_CONNECTIONS, RedisStore
from tests.contracts.store_contract import OpenStore, StoreContract, event, ids


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeySupervisor]:
    folder = tmp_path_factory.mktemp("valkey")
    supervisor = ValkeySupervisor(ValkeyConfig(port=free_port(), data_dir=str(folder), appendfsync="always"))
    supervisor.start()
    yield supervisor
    supervisor.stop()


@pytest.fixture
def admin(server: ValkeySupervisor) -> Iterator[redis.Redis]:
    """A second client of the server, which is emptied first."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        yield client


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        shared: list[MemoryStore] = []

        def open_one(**fields: Any) -> MemoryStore:
            shared.append(shared[0] if shared else MemoryStore(StoreConfig(**fields)))
            return shared[0]

        return open_one

    async def test_it_fails_and_recovers_as_set(self) -> None:
        store = MemoryStore(StoreConfig(timeout_ms=10))
        store.failing = True
        with pytest.raises(StoreUnavailable, match="set to fail"):
            await store.record([event("a")])
        store.failing, store.delay_s = False, 1.0
        with pytest.raises(StoreUnavailable, match="did not answer in 10 ms"):
            await store.ping()
        store.delay_s = 0.0
        assert await ids(store) == []


@pytest.fixture
async def open_redis(admin: redis.Redis, server: ValkeySupervisor) -> AsyncIterator[OpenStore]:
    opened: list[RedisStore] = []

    def open_one(**fields: Any) -> RedisStore:
        opened.append(RedisStore(StoreConfig(**{"redis_url": server.url, "timeout_ms": 1000} | fields)))
        return opened[-1]

    yield open_one
    for store in opened:
        await store.close()


class TestRedisStore(StoreContract):
    @pytest.fixture
    def open_store(self, open_redis: OpenStore) -> OpenStore:
        return open_redis

    async def test_applications_do_not_see_each_other(self, open_store: OpenStore) -> None:
        await open_store(app="one").record([event("a")])
        assert await ids(open_store(app="two")) == []

    async def test_a_batch_is_one_round_trip(self, open_store: OpenStore, admin: redis.Redis) -> None:
        """The server counts the reads of all clients, its supervisor among them; so take the least of some attempts."""
        store = open_store()
        await store.ping()
        reads = []
        for attempt in range(5):
            before = admin.info("stats")["total_reads_processed"]
            await store.histories([f"u{n}" for n in range(32)])
            await store.record([event(f"{attempt}/{n}", user_id=f"u{n}") for n in range(32)])
            reads.append(admin.info("stats")["total_reads_processed"] - before)
        assert min(reads) <= 3, reads  # two batches, and this `info`

    async def test_entries_that_were_cached_together_do_not_expire_together(
        self, open_store: OpenStore, admin: redis.Redis
    ) -> None:
        await open_store().cache({f"k{n}": b"value" for n in range(200)}, ttl_s=1000)
        left_s = sorted(admin.ttl(key) for key in admin.scan_iter("*candidates*"))
        assert len(left_s) == 200
        assert 490 <= left_s[0] < 600 < 900 < left_s[-1] <= 1000

    async def test_more_calls_than_connections_wait_for_one(self, open_store: OpenStore) -> None:
        store = open_store(app="flood", timeout_ms=20_000, write_timeout_ms=20_000)
        await asyncio.gather(*(store.record([event(str(n))]) for n in range(5 * WRITE_CONNECTIONS)))
        found = await asyncio.gather(*(store.histories(["u"]) for _ in range(5 * READ_CONNECTIONS)))
        assert {len(histories.events(0)) for histories in found} == {5 * WRITE_CONNECTIONS}

    async def test_a_slow_server_times_out_and_later_answers_are_not_mixed_up(
        self, open_store: OpenStore, admin: redis.Redis
    ) -> None:
        store = open_store(timeout_ms=50, breaker_failures=99)
        await store.record([event("a", user_id="u1"), event("b", user_id="u2")])
        admin.client_pause(1000)
        patient = asyncio.ensure_future(open_store(timeout_ms=10_000).ping())
        with pytest.raises(StoreUnavailable, match="did not answer in 50 ms"):
            await store.histories(["u"])
        assert not patient.done(), "the server still pauses"
        admin.client_unpause()
        await patient
        assert await ids(store, "u2") == ["b"]

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
    def test_a_reply_that_arrived_in_time_is_read_after_a_busy_event_loop(
        self, server: ValkeySupervisor, run: Callable[[Any], None]
    ) -> None:
        async def busy() -> None:
            store = RedisStore(StoreConfig(redis_url=server.url, timeout_ms=50))
            await store.record([event("a", user_id="busy")])
            await store.ping()
            for _ in range(5):
                reading = asyncio.ensure_future(ids(store, "busy"))
                await asyncio.sleep(0)  # the command is sent
                time.sleep(0.1)  # noqa: ASYNC251 - it is busy
                assert await reading == ["a"]
            await store.close()

        run(busy())

    async def test_a_cancelled_caller_leaves_no_stale_answer(self, open_store: OpenStore, admin: redis.Redis) -> None:
        store = open_store()
        await store.record([event("a", user_id="u1"), event("b", user_id="u2")])
        admin.client_pause(100)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.histories(["u"]), 0.02)
        assert await ids(store, "u2") == ["b"]

    async def test_an_event_that_was_not_stored_is_reported_and_can_be_sent_again(
        self, open_store: OpenStore, admin: redis.Redis
    ) -> None:
        store = open_store()
        admin.set("rayfunnel:history:broken", "not a sorted set")
        batch = [event("a", user_id="u"), event("b", user_id="broken")]
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            await store.record(batch)
        admin.delete("rayfunnel:history:broken")
        assert await store.record(batch) == 1
        assert await ids(store) == ["a"]
        assert await ids(store, "broken") == ["b"]

    @pytest.mark.server
    async def test_without_a_server_the_breaker_opens_and_closes_once_there_is_one(self, tmp_path: Path) -> None:
        port = free_port()
        store = RedisStore(StoreConfig(port=port, timeout_ms=500, breaker_failures=2, breaker_reset_s=0.1))
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}.* failed"):
                await store.ping()
        with pytest.raises(StoreUnavailable, match="circuit breaker open: 2 failures in a row"):
            await store.ping()
        supervisor = ValkeySupervisor(ValkeyConfig(port=port, data_dir=str(tmp_path)))
        await asyncio.to_thread(supervisor.start)
        await asyncio.sleep(0.15)
        await store.ping()
        await store.close()
        await asyncio.to_thread(supervisor.stop)


@pytest.mark.server
async def test_the_password_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ValkeyConfig(port=free_port(), data_dir=str(tmp_path))
    supervisor = ValkeySupervisor(config, password='se"cret #1')
    await asyncio.to_thread(supervisor.start)
    try:
        stranger = RedisStore(StoreConfig(port=config.port, timeout_ms=1000))
        with pytest.raises(StoreUnavailable, match=r"(?i)authentication"):
            await stranger.ping()
        await stranger.close()
        monkeypatch.setenv(PASSWORD_VARIABLE, 'se"cret #1')
        friend = RedisStore(StoreConfig(port=config.port, timeout_ms=1000))
        await friend.ping()
        await friend.close()
    finally:
        await asyncio.to_thread(supervisor.stop)


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("http://host", "must start with redis://"),
        ("redis://u:hunter2@host", PASSWORD_VARIABLE),
        ("redis://host?password=hunter2", PASSWORD_VARIABLE),
        ("redis://host:port", "Port could not be cast"),
    ],
)
def test_a_url_that_cannot_work_is_refused_without_showing_its_password(url: str, remedy: str) -> None:
    with pytest.raises(ValidationError, match=remedy) as refusal:
        StoreConfig(redis_url=url)
    assert "hunter2" not in str(refusal.value)


_calls = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from("uv"), st.integers(0, 20)), min_size=1, max_size=8),
        st.sampled_from(["", "", "kill before", "kill meanwhile"]),
    ),
    max_size=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls=_calls)
def test_acknowledged_events_are_stored_exactly_once_through_repeats_and_kills(
    server: ValkeySupervisor, calls: list[tuple[list[tuple[str, int]], str]]
) -> None:
    async def run() -> None:
        store = RedisStore(StoreConfig(redis_url=server.url, breaker_failures=3, breaker_reset_s=0.02, app=uuid4().hex))
        acknowledged: set[tuple[str, str]] = set()
        for number, (sent, fault) in enumerate(calls):
            events = [event(str(n), user_id=user, timestamp=number) for user, n in sent]
            if fault:
                pid = await asyncio.to_thread(process_id, server)
            if fault == "kill before":
                os.kill(pid, signal.SIGKILL)
            call = asyncio.create_task(until_taken(store.record, events))
            if fault == "kill meanwhile":
                await asyncio.sleep(0.0005)
                os.kill(pid, signal.SIGKILL)
            await call
            acknowledged |= {(user, str(n)) for user, n in sent}
        for user in "uv":
            found = (await until_taken(store.histories, [user])).event_ids
            assert sorted(found) == sorted(e for u, e in acknowledged if u == user)
        await store.close()

    asyncio.run(run())


def process_id(server: ValkeySupervisor) -> int:
    """Process id of the server, once it answers."""
    while True:
        with contextlib.suppress(redis.ConnectionError), redis.Redis.from_url(server.url) as client:
            return int(client.info("server")["process_id"])
        time.sleep(0.01)


async def until_taken(call: Callable[[Any], Awaitable[Any]], argument: Any) -> Any:
    """Repeats a call until it is acknowledged, as a client does."""
    while True:
        try:
            return await call(argument)
        except StoreUnavailable:
            await asyncio.sleep(0.01)
