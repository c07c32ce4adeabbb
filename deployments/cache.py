"""Candidates kept in the store for a while, so that a user who asks again skips the candidate stage.

An entry is found by everything that candidates depend on: model, configuration, user, n, filter and exclusions. It
carries the version of the user's history that it was made from; every recorded event sets a new version, so an entry
is not used after one. It comes in the round trip that fetches the histories.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping, Sequence

import msgpack
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import StoreUnavailable
from deployments.flow import Cached, Query
from deployments.messages import PAD, CandidateBatch
from deployments.store import Store

log = logging.getLogger("rayfunnel.cache")


class CacheConfig(BaseModel):
    """What is kept, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidates_ttl_s: float = Field(
        0, ge=0, le=86_400, description="Seconds that candidates are kept, at most; at least 0.8 of it. 0: off."
    )


class CandidateCache:
    """Reads and writes the entries of one application's requests. Belongs to one event loop.

    `scope`: a digest of the configuration that candidates depend on; `sources`: names of the retrieval sources.
    """

    def __init__(
        self, store: Store, config: CacheConfig, model_version: str, scope: str, sources: tuple[str, ...]
    ) -> None:
        self._store = store
        self._config = config
        self._model_version = model_version
        self._scope = scope
        self._sources = sources
        self._writing: asyncio.Task[None] | None = None

    def key(self, query: Query) -> str:
        """The key of the entry for `query`; empty if it is answered from items of its own."""
        if len(query.given):
            return ""
        parts = (self._scope, query.user_id, query.n, query.filter, query.excluded.tobytes())
        digest = hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return f"{self._model_version}:{digest}"

    def found(self, key: str, version: bytes, entry: bytes | None) -> Cached:
        """What the store has for `key`; an entry that was made from another version of the history is none."""
        if entry is not None:
            of, *columns = msgpack.unpackb(entry)
            if of == version:
                return Cached(key, version, tuple(columns))
        return Cached(key, version)

    def candidates(self, hits: Sequence[Cached]) -> CandidateBatch:
        """The candidates that `hits` hold, a row each."""
        items = [np.frombuffer(hit.columns[0], "<i4") for hit in hits]
        shape = (len(items), max(map(len, items), default=0))
        batch = CandidateBatch(
            model_version=self._model_version,
            item_ids_BK=np.full(shape, PAD, np.int32),
            retrieval_scores_BK=np.zeros(shape, np.float32),
            source_BK=np.full(shape, PAD, np.int8),
            source_scores_BKS=np.zeros((*shape, len(self._sources)), np.float32),
            mask_BK=np.zeros(shape, np.bool_),
            sources=self._sources,
        )
        for row, (hit, item_K) in enumerate(zip(hits, items, strict=True)):
            width, (_, retrieval, source, scores) = len(item_K), hit.columns
            batch.item_ids_BK[row, :width] = item_K
            batch.retrieval_scores_BK[row, :width] = np.frombuffer(retrieval, "<f4")
            batch.source_BK[row, :width] = np.frombuffer(source, np.int8)
            batch.source_scores_BKS[row, :width] = np.frombuffer(scores, "<f4").reshape(width, len(self._sources))
            batch.mask_BK[row, :width] = True
        return batch

    def keep(self, misses: Sequence[Cached], candidates: CandidateBatch) -> None:
        """Writes what was computed for `misses`, a row each, without waiting. While a write is under way the next is
        left out: a store that is slow to write is not asked for more.
        """
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write(_entries(misses, candidates)))

    async def _write(self, entries: Mapping[str, bytes]) -> None:
        try:
            await self._store.cache(entries, self._config.candidates_ttl_s)
        except StoreUnavailable as error:
            log.warning("candidates were not kept: %s", error)


def _entries(misses: Sequence[Cached], candidates: CandidateBatch) -> dict[str, bytes]:
    width_B = candidates.mask_BK.sum(axis=1).tolist()
    return {
        miss.key: msgpack.packb(
            (
                miss.version,
                candidates.item_ids_BK[row, :width].astype("<i4").tobytes(),
                candidates.retrieval_scores_BK[row, :width].astype("<f4").tobytes(),
                candidates.source_BK[row, :width].tobytes(),
                candidates.source_scores_BKS[row, :width].astype("<f4").tobytes(),
            )
        )
        for row, (miss, width) in enumerate(zip(misses, width_B, strict=True))
        if miss.key
    }
