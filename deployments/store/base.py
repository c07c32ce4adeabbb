"""The interface of a store, and its configuration. `redis.py` and `memory.py` implement it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from deployments.store.events import Event, Histories

PASSWORD_VARIABLE = "RAYFUNNEL_REDIS_PASSWORD"  # noqa: S105 - the variable's name
CA_VARIABLE = "RAYFUNNEL_REDIS_CA"


class StoreConfig(BaseModel):
    """How to reach the store. The environment holds the password (RAYFUNNEL_REDIS_PASSWORD) and, for `rediss://`, the
    file of the certificate authority (RAYFUNNEL_REDIS_CA).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)

    redis_url: str = ""
    """`redis://[user@]host:port/db`, `rediss://…` with TLS, `unix://path`; empty: the embedded server."""
    host: str = "127.0.0.1"
    """Address of the embedded server: `host` and `port` of the application `store`."""
    port: int = Field(6390, ge=1, le=65535)
    """Port of the embedded server."""
    app: str = Field("rayfunnel", pattern=r"^[A-Za-z0-9_.-]+$")
    """Prefix of every key, so that applications can share a server."""
    timeout_ms: int = Field(100, ge=1)
    """Timeout of reading one batch of histories, connecting included."""
    write_timeout_ms: int = Field(1000, ge=1)
    """Timeout of recording up to 1000 events. A write waits for the disk; no recommendation waits for a write."""
    history_limit: int = Field(500, ge=1)
    """Events kept per user, the newest."""
    held_events: int = Field(1_000_000, ge=0)
    """Decoded events that each ingress replica caches, of the most recent users (26 bytes each, and 1 kB a user); 0:
    none. A history that has changed is read again."""
    breaker_failures: int = Field(5, ge=1)
    """Failed calls in a row after which the store is not called for `breaker_reset_s`."""
    breaker_reset_s: float = Field(1.0, gt=0)
    """Pause before one call tries the store again."""

    @field_validator("redis_url")
    @classmethod
    def _reachable_and_without_password(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("must start with redis://, rediss:// or unix://")
        if parts.password or "password" in parse_qs(parts.query):
            raise ValueError(f"holds a password; take it out and set the environment variable {PASSWORD_VARIABLE}")
        _ = parts.port  # raises ValueError if the port is not valid
        return url

    @property
    def url(self) -> str:
        return self.redis_url or f"redis://{self.host}:{self.port}/0"


class Store(Protocol):
    """Every method raises StoreUnavailable if the store does not answer in time or reports an error."""

    async def histories(
        self, user_ids: Sequence[str], keys: Sequence[str] = (), caller_versions: Sequence[bytes] = ()
    ) -> Histories:
        """The newest `history_limit` events of each user, by (timestamp, item_id, event_id). One round trip.

        `keys`: the cache key of each user's request, or no keys at all; with keys, `versions` and `cached` are filled.
        `caller_versions`: the version of each user's history that the caller has already, empty: none. With them,
        `versions` is filled, and users whose version is current are left out of the columns; changed histories cost a
        second round trip. A version is never newer than the history that comes with it.
        """
        ...

    async def cache(self, entries: Mapping[str, bytes], ttl_s: float) -> None:
        """Writes `entries` (by cache key), each with a random time to live up to `ttl_s` (`jittered_ttl_s`). One round
        trip.
        """
        ...

    async def record(self, events: Sequence[Event]) -> int:
        """Stores the events; returns how many were new. One round trip. Idempotent: if it raises, some events may be
        stored, and the caller can repeat the call.
        """
        ...

    async def seed(self, events: Iterable[Event], tag: str) -> int:
        """Loads events in bulk unless `tag` (a hash of them) was loaded before; returns how many were new. Events that
        the store has already, from whatever origin (`seeding.missing`), are left out. Safe in several processes at
        once: each event is stored once.
        """
        ...

    def all_histories(self, since: float, until: float) -> AsyncIterator[Histories]:
        """The stored events with `since` <= timestamp < `until` (Unix seconds), some users at a time, each user once.
        Users whose first event is recorded meanwhile may be missing.
        """
        ...

    async def claim(self, name: str, owner: str) -> bytes | None:
        """Makes `owner` the owner of the value under `name`, and returns the value; None: there is none yet."""
        ...

    async def save_owned(self, name: str, owner: str, value: bytes) -> bool:
        """Writes `value` under `name`; False, and nothing is written, if another owner has claimed the name."""
        ...

    async def ping(self) -> None:
        """Returns if the store answers."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


def jittered_ttl_s(ttl_s: float) -> float:
    """Uniform between half of `ttl_s` and all of it, so that entries written together do not expire together."""
    return ttl_s * random.uniform(0.5, 1.0)  # noqa: S311
