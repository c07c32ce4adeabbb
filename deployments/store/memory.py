"""The store in memory, for tests and notebooks."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace

from deployments.errors import StoreUnavailable
from deployments.store.base import StoreConfig, jittered_ttl_s
from deployments.store.events import Event, Histories
from deployments.store.seeding import chunks, missing


class MemoryStore:
    """Behaves as `RedisStore`, within one process and without persistence.

    `failing` = True makes every call fail; `delay_s`: delay of every call, which fails if it is past the timeout.
    """

    def __init__(self, config: StoreConfig) -> None:
        self.failing = False
        self.delay_s = 0.0
        self._config = config
        self._users: dict[str, dict[bytes, float]] = defaultdict(dict)
        self._versions: dict[str, bytes] = {}
        self._entries: dict[str, tuple[float, bytes | None]] = {}
        self._tags: set[str] = set()
        self._owned: dict[str, tuple[str, bytes | None]] = {}

    async def histories(
        self, user_ids: Sequence[str], keys: Sequence[str] = (), caller_versions: Sequence[bytes] = ()
    ) -> Histories:
        """See `Store`."""
        await self._answer(self._config.timeout_ms)
        versions = [self._versions.get(user, b"") for user in user_ids] if keys or caller_versions else []
        rows = [
            row
            for row in range(len(user_ids))
            if not caller_versions or not caller_versions[row] or caller_versions[row] != versions[row]
        ]
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
        self._entries |= {key: (now + jittered_ttl_s(ttl_s), value) for key, value in entries.items()}

    async def record(self, events: Sequence[Event]) -> int:
        """See `Store`."""
        await self._answer(self._config.write_timeout_ms)
        return self._record(events)

    def _record(self, events: Sequence[Event]) -> int:
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
        stored = 0
        for by_user in chunks(events) if tag not in self._tags else ():
            await self._answer(self._config.write_timeout_ms)
            for user, own in by_user.items():
                history = sorted(self._users.get(user, {}).items(), key=_by_time)
                members, timestamps = [m for m, _ in history], [t for _, t in history]
                new = missing(own, members, timestamps, self._config.history_limit)
                stored += self._record(new) if new else 0
        self._tags.add(tag)
        return stored

    async def all_histories(self, since: float, until: float) -> AsyncIterator[Histories]:
        """See `Store`."""
        await self._answer(self._config.timeout_ms)
        for user, history in list(self._users.items()):
            if events := [entry for entry in sorted(history.items(), key=_by_time) if since <= entry[1] < until]:
                yield Histories.decode([user], [len(events)], [m for m, _ in events], [t for _, t in events])

    async def claim(self, name: str, owner: str) -> bytes | None:
        """See `Store`."""
        await self._answer(self._config.write_timeout_ms)
        _, value = self._owned.get(name, ("", None))
        self._owned[name] = owner, value
        return value

    async def save_owned(self, name: str, owner: str, value: bytes) -> bool:
        """See `Store`."""
        await self._answer(self._config.write_timeout_ms)
        if self._owned.get(name, (owner, None))[0] != owner:
            return False
        self._owned[name] = owner, value
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
            raise StoreUnavailable("the in-memory store is set to fail")


def _by_time(entry: tuple[bytes, float]) -> tuple[float, bytes]:
    return entry[1], entry[0]
