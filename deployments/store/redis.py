"""The store in Redis, or in the embedded Valkey.

One sorted set per user, `{app}:history:{user_id}`: score = timestamp, member = the event (see `events.py`). Adding
never overwrites, so an event sent twice is stored once: after StoreUnavailable a caller sends its events again. This
holds for the newest `history_limit` events of a user; older ones are gone.

`{app}:version:{user_id}`: a token that changes with every recorded event. `{app}:candidates:{key}`: a cache entry.
`{app}:kept:{name}`: a value that has one owner at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import orjson
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from deployments import timeouts
from deployments.errors import StoreUnavailable
from deployments.store.base import CA_VARIABLE, PASSWORD_VARIABLE, StoreConfig, jittered_ttl_s
from deployments.store.circuit_breaker import CircuitBreaker
from deployments.store.events import Event, Histories
from deployments.store.seeding import chunks, missing

READ_CONNECTIONS, WRITE_CONNECTIONS = 64, 32
"""Connections to the store at a time; further calls wait for one, as long as their time-out allows."""
_SCAN_COUNT, _SCANNED_USERS = 500, 20
"""Keys that one step of `all_histories` looks at, and histories that it reads at a time."""
_RECORD_IF_UNCHANGED = """
if (redis.call('GET', KEYS[2]) or '') ~= ARGV[1] then return -1 end
local new = 0
for i = 4, #ARGV, 2 do new = new + redis.call('ZADD', KEYS[1], 'NX', ARGV[i], ARGV[i + 1]) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[3] - 1)
redis.call('SET', KEYS[2], ARGV[2])
return new
"""
_SAVE_OWNED = """
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'value', ARGV[2])
return 1
"""


class RedisStore:
    """The store in Redis or Valkey. Use it on one event loop."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._reads = CircuitBreaker(config.breaker_failures, config.breaker_reset_s)
        # Writes have their own breaker: a full disk must not stop reads.
        self._writes = CircuitBreaker(config.breaker_failures, config.breaker_reset_s)
        secrets: dict[str, Any] = {"password": os.environ.get(PASSWORD_VARIABLE) or None}
        if config.url.startswith("rediss:"):
            secrets["ssl_ca_certs"] = os.environ.get(CA_VARIABLE) or None
        options: dict[str, Any] = {
            "protocol": 2,  # its flat replies are columns already
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,  # `_run` sets one limit for the whole round trip
            "socket_connect_timeout": None,
            "timeout": None,  # likewise for the wait for a connection
            **secrets,
        }

        def client(connections: int) -> redis.asyncio.Redis:
            pool = redis.asyncio.BlockingConnectionPool.from_url(config.url, max_connections=connections, **options)
            return redis.asyncio.Redis.from_pool(pool)

        # A pool each: writes that wait for a slow disk keep no connection from reads.
        self._reader, self._writer = client(READ_CONNECTIONS), client(WRITE_CONNECTIONS)

    async def histories(
        self, user_ids: Sequence[str], keys: Sequence[str] = (), caller_versions: Sequence[bytes] = ()
    ) -> Histories:
        """See `Store`."""
        rows = [row for row in range(len(user_ids)) if not caller_versions or not caller_versions[row]]
        commands = [self._events_of(user_ids[row]) for row in rows]
        versioned = user_ids if keys or caller_versions else ()
        if versioned:
            names = [self._key("version", user) for user in versioned]
            commands.insert(0, ("MGET", *names, *(self._key("candidates", key) for key in keys)))
        replies: list[list[bytes]] = await self._run(commands, self._config.timeout_ms)
        found = replies.pop(0) if versioned else []
        versions = [version or b"" for version in found[: len(versioned)]]
        changed = [row for row, version in enumerate(caller_versions) if version and version != versions[row]]
        replies += await self._run([self._events_of(user_ids[row]) for row in changed], self._config.timeout_ms)
        rows += changed
        histories = _decode([user_ids[row] for row in rows], replies)
        return replace(histories, rows=rows, versions=versions, cached=found[len(versioned) :])

    def _events_of(self, user_id: str) -> tuple[Any, ...]:
        return "ZRANGE", self._key("history", user_id), -self._config.history_limit, -1, "WITHSCORES"

    async def cache(self, entries: Mapping[str, bytes], ttl_s: float) -> None:
        """See `Store`."""
        commands = [
            ("SET", self._key("candidates", key), value, "PX", max(1, round(jittered_ttl_s(ttl_s) * 1000)))
            for key, value in entries.items()
        ]
        await self._run(commands, self._config.timeout_ms)

    async def record(self, events: Sequence[Event]) -> int:
        """See `Store`."""
        added: dict[str, list[bytes]] = defaultdict(list)
        for event in events:
            added[event.user_id] += _stored(event)
        commands: list[tuple[Any, ...]] = []
        for user, pairs in added.items():
            key = self._key("history", user)
            commands.append(("ZADD", key, "NX", *pairs))
            commands.append(("ZREMRANGEBYRANK", key, 0, -self._config.history_limit - 1))
            commands.append(("SET", self._key("version", user), os.urandom(8)))
        replies: list[int] = await self._run(commands, self._config.write_timeout_ms, write=True)
        return sum(replies[::3])

    async def seed(self, events: Iterable[Event], tag: str) -> int:
        """See `Store`."""
        key, timeout_ms = f"{self._config.app}:seeded", self._config.write_timeout_ms
        if (await self._run([("SISMEMBER", key, tag)], timeout_ms))[0]:
            return 0
        stored = 0
        for by_user in chunks(events):
            left = by_user
            while left:  # the histories that changed between reading and writing are compared again
                counts = await self._seed_users(left)
                stored += sum(count for count in counts.values() if count > 0)
                left = {user: by_user[user] for user, count in counts.items() if count < 0}
        await self._run([("SADD", key, tag)], timeout_ms, write=True)
        return stored

    async def _seed_users(self, by_user: Mapping[str, Sequence[Event]]) -> dict[str, int]:
        """Stores the events that the histories do not have; per user how many, -1: the history changed meanwhile."""
        keys = {user: (self._key("history", user), self._key("version", user)) for user in by_user}
        reads: list[tuple[Any, ...]] = [("MGET", *(version for _, version in keys.values()))]
        reads += [("ZRANGE", history, 0, -1, "WITHSCORES") for history, _ in keys.values()]
        versions, *replies = await self._run(reads, self._config.write_timeout_ms, write=True)
        limit, writes = self._config.history_limit, {}
        for user, version, reply in zip(by_user, versions, replies, strict=True):
            await asyncio.sleep(0)  # comparing long histories takes milliseconds, and requests wait on this event loop
            timestamps = orjson.loads(b"[%b]" % b",".join(reply[1::2]))
            if new := missing(by_user[user], reply[::2], timestamps, limit):
                pairs = itertools.chain.from_iterable(map(_stored, new))
                arguments = (version or b"", os.urandom(8), limit, *pairs)
                writes[user] = ("EVAL", _RECORD_IF_UNCHANGED, 2, *keys[user], *arguments)
        counts = await self._run(list(writes.values()), self._config.write_timeout_ms, write=True)
        return dict(zip(writes, counts, strict=True))

    async def all_histories(self, since: float, until: float) -> AsyncIterator[Histories]:
        """See `Store`."""
        prefix, timeout_ms = self._key("history", ""), self._config.write_timeout_ms
        scanned: set[int] = set()  # a scan may give a key twice; 64 bits of a hash are enough to tell
        cursor = None
        while cursor != 0:
            step = ("SCAN", cursor or 0, "MATCH", prefix + b"*", "COUNT", _SCAN_COUNT, "TYPE", "zset")
            [(cursor, found)] = await self._run([step], timeout_ms)
            by_hash = {int.from_bytes(blake2b(key, digest_size=8).digest()): key for key in found}
            keys = [key for digest, key in by_hash.items() if digest not in scanned]
            scanned |= by_hash.keys()
            for start in range(0, len(keys), _SCANNED_USERS):
                some = keys[start : start + _SCANNED_USERS]
                span = repr(float(since)), f"({float(until)!r}", "BYSCORE", "WITHSCORES"
                replies = await self._run([("ZRANGE", key, *span) for key in some], timeout_ms)
                users = [key.removeprefix(prefix).decode("utf-8", "surrogatepass") for key in some]
                yield _decode(users, replies)

    async def claim(self, name: str, owner: str) -> bytes | None:
        """See `Store`."""
        key = self._key("kept", name)
        commands: list[tuple[Any, ...]] = [("HSET", key, "owner", owner), ("HGET", key, "value")]
        found: bytes | None = (await self._run(commands, self._config.write_timeout_ms, write=True))[1]
        return found

    async def save_owned(self, name: str, owner: str, value: bytes) -> bool:
        """See `Store`."""
        command = ("EVAL", _SAVE_OWNED, 1, self._key("kept", name), owner, value)
        return bool((await self._run([command], self._config.write_timeout_ms, write=True))[0])

    async def ping(self) -> None:
        """See `Store`."""
        await self._run([("PING",)], self._config.timeout_ms)

    async def close(self) -> None:
        """See `Store`."""
        await self._reader.aclose()
        await self._writer.aclose()

    def _key(self, kind: str, name: str) -> bytes:
        return f"{self._config.app}:{kind}:{name}".encode("utf-8", "surrogatepass")

    async def _run(self, commands: Sequence[tuple[Any, ...]], timeout_ms: int, write: bool = False) -> list[Any]:
        """All replies, in one round trip.

        Raises:
            StoreUnavailable: the breaker is open, or the server failed or was late.
        """
        if not commands:
            return []
        with (self._writes if write else self._reads).guard():
            try:
                async with timeouts.timeout(timeout_ms / 1000):
                    client = self._writer if write else self._reader
                    pipeline = client.pipeline(transaction=write)  # a history and its version change as one
                    for command in commands:
                        pipeline.execute_command(*command)
                    return await pipeline.execute()
            except TimeoutError:
                raise StoreUnavailable(f"the store at {self._config.url} did not answer in {timeout_ms} ms") from None
            except (RedisError, OSError) as error:
                # The text of a pipeline's error begins with the command, so with a key, which contains the user's id.
                why = str(error).rpartition(" of pipeline caused error: ")[2]
                raise StoreUnavailable(f"the store at {self._config.url} failed: {why}") from error


def _stored(event: Event) -> tuple[bytes, bytes]:
    """Score and member of an event."""
    return repr(float(event.timestamp)).encode(), event.member()


def _decode(users: Sequence[str], replies: Sequence[Sequence[bytes]]) -> Histories:
    """The histories from a ZRANGE reply per user."""
    flat = list(itertools.chain.from_iterable(replies))
    timestamps = orjson.loads(b"[%b]" % b",".join(flat[1::2]))
    return Histories.decode(users, (len(reply) // 2 for reply in replies), flat[::2], timestamps)
