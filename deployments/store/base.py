"""The contract of a store, and its configuration. `redis.py` and `memory.py` implement it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from deployments.store.events import Event, Histories

PASSWORD_VARIABLE = "RAYFUNNEL_REDIS_PASSWORD"  # noqa: S105 - the variable's name


CA_VARIABLE = "RAYFUNNEL_REDIS_CA"


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


def lifetime_s(ttl_s: float) -> float:
    """Between half of `ttl_s` and all of it: what was written in the same second must not have to be computed in the
    same second again.
    """
    return ttl_s * random.uniform(0.5, 1.0)  # noqa: S311
