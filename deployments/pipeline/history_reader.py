"""Fetches the histories of a batch's users, and their cache entries, in one round trip to the store.

Decoded histories are kept in memory. The store returns the version of a history; while it is unchanged, the copy in
memory is used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from cachetools import LRUCache

from deployments.artifact.catalogue import Catalogue
from deployments.messages import HistoryBatch
from deployments.models.features.user_features import UserFeatures
from deployments.pipeline.batch import PendingRequest
from deployments.pipeline.result_cache import ResultCache
from deployments.store.base import Store, StoreConfig
from deployments.store.event_types import EventsConfig
from deployments.store.events import UserHistory, history_batch, user_histories

_NO_HISTORY = b"", UserHistory.empty()
_USER_COST = 64
"""Memory of a user beside the events, counted in events."""


class HistoryReader:
    """Pending requests → HistoryBatch, a row each; with a cache, it also fills in `cached` of each request."""

    def __init__(
        self,
        store: Store,
        config: StoreConfig,
        events: EventsConfig,
        catalogue: Catalogue,
        user_features: UserFeatures,
        model_version: str,
        cache: ResultCache | None,
        event_types: Sequence[str] | None = None,
    ) -> None:
        """`event_types`: those of the artifact; None: its features read no types."""
        self._store = store
        self._config = config
        self._events = events
        self._catalogue = catalogue
        self._user_features = user_features
        self._model_version = model_version
        self._cache = cache
        self._event_types = event_types
        self._held: LRUCache[str, tuple[bytes, UserHistory]] = LRUCache(config.held_events, _cost)

    async def __call__(self, pending_requests: Sequence[PendingRequest]) -> HistoryBatch:
        """Raises StoreUnavailable."""
        users = [pending.query.user_id for pending in pending_requests]
        keys = [self._cache.key(pending.query) for pending in pending_requests] if self._cache else []
        held = [self._held.get(user, _NO_HISTORY) for user in users]
        versions = [version for version, _ in held] if self._config.held_events else []
        found = await self._store.histories(users, keys, versions)
        if self._cache:
            for pending, key, version, entry in zip(pending_requests, keys, found.versions, found.cached, strict=True):
                pending.cached = self._cache.found(key, version, entry)
        histories = [history for _, history in held]
        decoded = user_histories(found, self._catalogue.positions, self._events, self._event_types or ())
        for row, history in zip(found.rows, decoded, strict=True):
            histories[row] = history
            if versions:
                self._hold(users[row], found.versions[row], history)
        features_BF, typed = self._user_features(users), self._event_types is not None
        return history_batch(histories, self._model_version, features_BF, time.time(), typed)

    def _hold(self, user_id: str, version: bytes, history: UserHistory) -> None:
        """Keeps a history. One without a version is not kept: a later change would not show."""
        if version and _cost((version, history)) <= self._config.held_events:
            self._held[user_id] = version, history


def _cost(held: tuple[bytes, UserHistory]) -> int:
    return _USER_COST + len(held[1].item_H)
