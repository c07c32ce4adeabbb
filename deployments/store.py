"""Where the users' events are kept: Redis (or the embedded Valkey), and its in-memory twin.

One sorted set per user, `{app}:history:{user_id}`: score = timestamp, member = the event (see `events.py`). Adding
never overwrites, so an event sent twice is stored once: a caller that got StoreUnavailable simply sends again.
The promise holds as far back as the history reaches (`history_limit`).

`{app}:version:{user_id}` is a token that changes with every recorded event, `{app}:candidates:{key}` a cache entry,
`{app}:kept:{name}` what one owner at a time keeps. Over 300 lines: the store and its twin are read side by side.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import orjson
import redis.asyncio
from pydantic import BaseModel, ConfigDict, Field, field_validator
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from deployments import patience
from deployments.breaker import Breaker
from deployments.errors import StoreUnavailable
from deployments.events import Event, Histories

PASSWORD_VARIABLE = "RAYFUNNEL_REDIS_PASSWORD"  # noqa: S105 - the variable's name
CA_VARIABLE = "RAYFUNNEL_REDIS_CA"
_CHUNK = 1000
"""Events per round trip while seeding."""
_KEEP = """
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'value', ARGV[2])
return 1
"""


class StoreConfig(BaseModel):
    """How to reach the store. Secrets come from the environment: the password from RAYFUNNEL_REDIS_PASSWORD, the file
    of the certificate authority that signed a `rediss://` server's certificate from RAYFUNNEL_REDIS_CA.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    redis_url: str = ""
    """`redis://[user@]host:port/db`, `rediss://…` with TLS, `unix://path`; empty: the embedded server."""
    host: str = "127.0.0.1"
    """Where the embedded server listens: `host` and `port` of the application `store`."""
    port: int = Field(6390, ge=1, le=65535)
    app: str = Field("rayfunnel", pattern=r"^[A-Za-z0-9_.-]+$")
    """First part of every key, so that applications can share a server."""
    timeout_ms: int = Field(100, ge=1)
    """For reading one batch of histories, connecting included."""
    write_timeout_ms: int = Field(1000, ge=1)
    """For recording up to 1000 events; a write waits for the disk, and nobody's recommendation waits for it."""
    history_limit: int = Field(500, ge=1)
    """Events kept per user, the most recent ones."""
    held_events: int = Field(1_000_000, ge=0)
    """Events that each ingress replica holds decoded, of the users who asked last (16 bytes each, and 1 kB a user); 0:
    none. A history that has changed is read again."""
    breaker_failures: int = Field(5, ge=1)
    breaker_reset_s: float = Field(1.0, gt=0)
    event_weights: dict[str, float] = {"view": 0.4, "click": 0.6, "like": 1.0, "purchase": 1.0, "dislike": -0.5}
    """Event type → how strongly it speaks for (> 0) or against (< 0) the item, where the event doesn't say."""
    default_event_weight: float = 0.5
    """For types not listed."""

    @field_validator("redis_url")
    @classmethod
    def _reachable_and_without_password(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("must start with redis://, rediss:// or unix://")
        if parts.password or "password" in parse_qs(parts.query):
            raise ValueError(f"holds a password; take it out and set the environment variable {PASSWORD_VARIABLE}")
        _ = parts.port  # raises ValueError where it is no port
        return url

    @property
    def url(self) -> str:
        return self.redis_url or f"redis://{self.host}:{self.port}/0"


class Store(Protocol):
    """Every method raises StoreUnavailable if the store did not answer in time or at all."""

    async def histories(
        self, user_ids: Sequence[str], keys: Sequence[str] = (), held: Sequence[bytes] = ()
    ) -> Histories:
        """The most recent `history_limit` events of each user, by (timestamp, item_id, event_id). One round trip.

        `keys`: the cache key of each user's request, or none at all; then `versions` and `cached` are filled as well.
        `held`: the version of each user's history that the caller holds, empty: of none; then `versions` is filled, and
        users with that version are left out of the columns. A history that has changed since costs a second round trip.
        A version is never newer than the history it comes with.
        """
        ...

    async def cache(self, entries: Mapping[str, bytes], ttl_s: float) -> None:
        """Keeps `entries` (by cache key) for `ttl_s` seconds at most, each for a share of its own (`lifetime_s`). One
        round trip.
        """
        ...

    async def record(self, events: Sequence[Event]) -> int:
        """Stores the events; returns how many were new. One round trip. If it raises, some may have been stored, and
        the same call can be made again.
        """
        ...

    async def seed(self, events: Iterable[Event], tag: str) -> int:
        """Loads events in bulk unless `tag` (a hash of them) was loaded before; returns how many were new.
        Several processes may do so at once: each event still is stored once.
        """
        ...

    async def claim(self, name: str, owner: str) -> bytes | None:
        """Makes `owner` the owner of what is kept under `name`, and returns that; None: nothing yet."""
        ...

    async def keep(self, name: str, owner: str, value: bytes) -> bool:
        """Keeps `value` under `name`, unless another than `owner` has claimed it since; then False."""
        ...

    async def ping(self) -> None:
        """Returns if the store answers."""
        ...

    async def close(self) -> None:
        """Gives the connections back."""
        ...


class RedisStore:
    """The store in Redis or Valkey. Use it on one event loop."""

    def __init__(self, config: StoreConfig) -> None:
        self._config = config
        self._reads = Breaker(config.breaker_failures, config.breaker_reset_s)
        self._writes = Breaker(config.breaker_failures, config.breaker_reset_s)  # a full disk must not stop reads
        secrets: dict[str, Any] = {"password": os.environ.get(PASSWORD_VARIABLE) or None}
        if config.url.startswith("rediss:"):
            secrets["ssl_ca_certs"] = os.environ.get(CA_VARIABLE) or None
        self._redis = redis.asyncio.Redis.from_url(
            config.url,
            protocol=2,  # its flat replies are the columns we want
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,  # `_run` sets one limit for the whole round trip
            socket_connect_timeout=None,
            **secrets,
        )

    async def histories(
        self, user_ids: Sequence[str], keys: Sequence[str] = (), held: Sequence[bytes] = ()
    ) -> Histories:
        """See `Store`."""
        rows = [row for row in range(len(user_ids)) if not held or not held[row]]
        commands = [self._events_of(user_ids[row]) for row in rows]
        versioned = user_ids if keys or held else ()
        if versioned:
            names = [self._key("version", user) for user in versioned]
            commands.insert(0, ("MGET", *names, *(self._key("candidates", key) for key in keys)))
        replies: list[list[bytes]] = await self._run(commands, self._config.timeout_ms)
        found = replies.pop(0) if versioned else []
        versions = [version or b"" for version in found[: len(versioned)]]
        changed = [row for row, version in enumerate(held) if version and version != versions[row]]
        replies += await self._run([self._events_of(user_ids[row]) for row in changed], self._config.timeout_ms)
        rows += changed
        flat = list(itertools.chain.from_iterable(replies))
        timestamps = orjson.loads(b"[%b]" % b",".join(flat[1::2]))
        counts = (len(reply) // 2 for reply in replies)
        histories = Histories.decode([user_ids[row] for row in rows], counts, flat[::2], timestamps)
        return replace(histories, rows=rows, versions=versions, cached=found[len(versioned) :])

    def _events_of(self, user_id: str) -> tuple[Any, ...]:
        return "ZRANGE", self._key("history", user_id), -self._config.history_limit, -1, "WITHSCORES"

    async def cache(self, entries: Mapping[str, bytes], ttl_s: float) -> None:
        """See `Store`."""
        commands = [
            ("SET", self._key("candidates", key), value, "PX", max(1, round(lifetime_s(ttl_s) * 1000)))
            for key, value in entries.items()
        ]
        await self._run(commands, self._config.timeout_ms)

    async def record(self, events: Sequence[Event]) -> int:
        """See `Store`."""
        added: dict[str, list[bytes]] = defaultdict(list)
        for event in events:
            added[event.user_id] += repr(float(event.timestamp)).encode(), event.member()
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
        stored, rest = 0, iter(events)
        while chunk := list(itertools.islice(rest, _CHUNK)):
            stored += await self.record(chunk)
        await self._run([("SADD", key, tag)], timeout_ms, write=True)
        return stored

    async def claim(self, name: str, owner: str) -> bytes | None:
        """See `Store`."""
        key = self._key("kept", name)
        commands: list[tuple[Any, ...]] = [("HSET", key, "owner", owner), ("HGET", key, "value")]
        found: bytes | None = (await self._run(commands, self._config.write_timeout_ms, write=True))[1]
        return found

    async def keep(self, name: str, owner: str, value: bytes) -> bool:
        """See `Store`."""
        command = ("EVAL", _KEEP, 1, self._key("kept", name), owner, value)
        return bool((await self._run([command], self._config.write_timeout_ms, write=True))[0])

    async def ping(self) -> None:
        """See `Store`."""
        await self._run([("PING",)], self._config.timeout_ms)

    async def close(self) -> None:
        """See `Store`."""
        await self._redis.aclose()

    def _key(self, kind: str, name: str) -> bytes:
        return f"{self._config.app}:{kind}:{name}".encode("utf-8", "surrogatepass")

    async def _run(self, commands: Sequence[tuple[Any, ...]], timeout_ms: int, write: bool = False) -> list[Any]:
        """One round trip: all replies, or StoreUnavailable."""
        if not commands:
            return []
        with (self._writes if write else self._reads).guard():
            try:
                async with patience.timeout(timeout_ms / 1000):
                    pipeline = self._redis.pipeline(transaction=write)  # a history and its version change as one
                    for command in commands:
                        pipeline.execute_command(*command)
                    return await pipeline.execute()
            except TimeoutError:
                raise StoreUnavailable(f"the store at {self._config.url} did not answer in {timeout_ms} ms") from None
            except (RedisError, OSError) as error:
                # A pipeline's error begins with the command, and so with its key, which holds the user's id.
                why = str(error).rpartition(" of pipeline caused error: ")[2]
                raise StoreUnavailable(f"the store at {self._config.url} failed: {why}") from error


class MemoryStore:
    """The twin for tests and notebooks: same behaviour, one process, nothing kept.

    `failing` = True makes every call fail, `delay_s` makes it take that long (and fail past the timeout).
    """

    def __init__(self, config: StoreConfig) -> None:
        self.failing = False
        self.delay_s = 0.0
        self._config = config
        self._users: dict[str, dict[bytes, float]] = defaultdict(dict)
        self._versions: dict[str, bytes] = {}
        self._entries: dict[str, tuple[float, bytes | None]] = {}
        self._tags: set[str] = set()
        self._kept: dict[str, tuple[str, bytes | None]] = {}

    async def histories(
        self, user_ids: Sequence[str], keys: Sequence[str] = (), held: Sequence[bytes] = ()
    ) -> Histories:
        """See `Store`."""
        await self._answer(self._config.timeout_ms)
        versions = [self._versions.get(user, b"") for user in user_ids] if keys or held else []
        rows = [row for row in range(len(user_ids)) if not held or not held[row] or held[row] != versions[row]]
        users = [user_ids[row] for row in rows]
        events = [sorted(self._users.get(user, {}).items(), key=_by_time) for user in users]
        flat = list(itertools.chain.from_iterable(events))
        histories = Histories.decode(users, map(len, events), [m for m, _ in flat], [t for _, t in flat])
        now = time.monotonic()
        entries = [self._entries.get(key, (0.0, None)) for key in keys]
        cached = [value if now < end else None for end, value in entries]
        return replace(histories, rows=rows, versions=versions, cached=cached)

    async def cache(self, entries: Mapping[str, bytes], ttl_s: float) -> None:
        """See `Store`."""
        await self._answer(self._config.timeout_ms)
        now = time.monotonic()
        self._entries |= {key: (now + lifetime_s(ttl_s), value) for key, value in entries.items()}

    async def record(self, events: Sequence[Event]) -> int:
        """See `Store`."""
        await self._answer(self._config.write_timeout_ms)
        new = 0
        for event in events:
            history, member = self._users[event.user_id], event.member()
            new += member not in history
            history.setdefault(member, float(event.timestamp))
        for user in {event.user_id for event in events}:
            kept = sorted(self._users[user].items(), key=_by_time)[-self._config.history_limit :]
            self._users[user] = dict(kept)
            self._versions[user] = os.urandom(8)
        return new

    async def seed(self, events: Iterable[Event], tag: str) -> int:
        """See `Store`."""
        stored = 0 if tag in self._tags else await self.record(list(events))
        self._tags.add(tag)
        return stored

    async def claim(self, name: str, owner: str) -> bytes | None:
        """See `Store`."""
        await self._answer(self._config.write_timeout_ms)
        _, value = self._kept.get(name, ("", None))
        self._kept[name] = owner, value
        return value

    async def keep(self, name: str, owner: str, value: bytes) -> bool:
        """See `Store`."""
        await self._answer(self._config.write_timeout_ms)
        if self._kept.get(name, (owner, None))[0] != owner:
            return False
        self._kept[name] = owner, value
        return True

    async def ping(self) -> None:
        """See `Store`."""
        await self._answer(self._config.timeout_ms)

    async def close(self) -> None:
        """See `Store`."""

    async def _answer(self, timeout_ms: int) -> None:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await asyncio.sleep(self.delay_s)
        except TimeoutError:
            raise StoreUnavailable(f"the in-memory store did not answer in {timeout_ms} ms") from None
        if self.failing:
            raise StoreUnavailable("the in-memory store was told to fail")


def lifetime_s(ttl_s: float) -> float:
    """Between half of `ttl_s` and all of it: what was written in the same second must not have to be computed in the
    same second again.
    """
    return ttl_s * random.uniform(0.5, 1.0)  # noqa: S311


def _by_time(entry: tuple[bytes, float]) -> tuple[float, bytes]:
    return entry[1], entry[0]
