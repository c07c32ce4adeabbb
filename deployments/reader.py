"""Fetches what a batch's users did, and what the cache has for their requests: one round trip to the store."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.cache import CandidateCache
from deployments.catalogue import Catalogue
from deployments.events import history_batch
from deployments.flow import Ticket
from deployments.messages import HistoryBatch
from deployments.models.user_features import UserFeatures
from deployments.store import Store, StoreConfig


class HistoryReader:
    """Tickets → HistoryBatch, a row each; with a cache, also fills in the tickets' `cached`."""

    def __init__(
        self,
        store: Store,
        config: StoreConfig,
        catalogue: Catalogue,
        user_features: UserFeatures,
        model_version: str,
        cache: CandidateCache | None,
    ) -> None:
        self._store = store
        self._config = config
        self._catalogue = catalogue
        self._user_features = user_features
        self._model_version = model_version
        self._cache = cache

    async def __call__(self, tickets: Sequence[Ticket]) -> HistoryBatch:
        """Raises StoreUnavailable."""
        users = [ticket.query.user_id for ticket in tickets]
        keys = [self._cache.key(ticket.query) for ticket in tickets] if self._cache else []
        found = await self._store.histories(users, keys)
        if self._cache:
            for ticket, key, version, entry in zip(tickets, keys, found.versions, found.cached, strict=True):
                ticket.cached = self._cache.found(key, version, entry)
        return history_batch(
            found,
            self._catalogue.positions,
            self._config.event_weights,
            self._config.default_event_weight,
            self._model_version,
            self._user_features(users),
        )
