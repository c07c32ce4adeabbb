"""What the store of a cluster holds."""

from __future__ import annotations

import asyncio

from deployments.store.base import StoreConfig
from deployments.store.events import Histories
from deployments.store.redis import RedisStore


def stored_histories(port: int, user_ids: list[str]) -> Histories:
    """The histories of the users in the store on `port`."""

    async def read() -> Histories:
        store = RedisStore(StoreConfig(port=port, timeout_ms=5000))
        try:
            return await store.histories(user_ids)
        finally:
            await store.close()

    return asyncio.run(read())
