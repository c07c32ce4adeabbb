"""The result cache: candidates and their scores, kept in the store. A user who asks again skips both stages.

The key holds everything that they depend on: model, configuration, user, n, filter and exclusions. An entry carries the
version of the user's history that it was made from. Every recorded event sets a new version, so that an older entry is
not used any more. Entries are read in the round trip that fetches the histories. The ranking stage is not cached: its
rules depend on the context of a request.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
from collections.abc import Mapping, Sequence

import msgpack
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import StoreUnavailable
from deployments.messages import PAD, CandidateBatch, ScoreBatch
from deployments.pipeline.batch import Cached
from deployments.pipeline.request import Query
from deployments.store.base import Store

log = logging.getLogger("rayfunnel.cache")

MOST_WAITING = 256
"""Entries that wait to be written at most; further ones are dropped."""


class CacheConfig(BaseModel):
    """What is cached, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    candidates_ttl_s: float = Field(0, ge=0, le=86_400)
    """Longest time that a user's candidates stay in the store; each entry's lifetime lies between half of it and all.
    An entry is not used after an event, or for another model or filter. 0: no cache."""
    scores: bool = True
    """Whether the model's scores of the candidates are kept as well."""


class ResultCache:
    """Reads and writes the entries of one application's requests. Belongs to one event loop.

    `scope`: a digest of the configuration that entries depend on; `sources`: names of the retrieval sources.
    """

    def __init__(
        self, store: Store, config: CacheConfig, model_version: str, scope: str, sources: tuple[str, ...]
    ) -> None:
        self._store = store
        self._config = config
        self._model_version = model_version
        self._scope = scope
        self._sources = sources
        self._waiting: dict[str, bytes] = {}
        self._writing: asyncio.Task[None] | None = None

    def key(self, query: Query) -> str:
        """The key of the entry for `query`; empty if the caller names the items to rank."""
        if len(query.given):
            return ""
        parts = (self._scope, query.user_id, query.n, query.filter, query.excluded.tobytes())
        digest = hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return f"{self._model_version}:{digest}"

    def found(self, key: str, version: bytes, entry: bytes | None) -> Cached:
        """The entry of `key`; without columns if there is none, or if it was made from another version of the
        history."""
        if entry is not None:
            entry_version, *columns = msgpack.unpackb(entry)
            if entry_version == version:
                return Cached(key, version, tuple(columns))
        return Cached(key, version)

    def candidates(self, hits: Sequence[Cached]) -> CandidateBatch:
        """The candidates of `hits`, a row each."""
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
            width, (_, retrieval, source, scores, _) = len(item_K), hit.columns
            batch.item_ids_BK[row, :width] = item_K
            batch.retrieval_scores_BK[row, :width] = np.frombuffer(retrieval, "<f4")
            batch.source_BK[row, :width] = np.frombuffer(source, np.int8)
            batch.source_scores_BKS[row, :width] = np.frombuffer(scores, "<f4").reshape(width, len(self._sources))
            batch.mask_BK[row, :width] = True
        return batch

    def scores(self, cached: Sequence[Cached | None], candidates: CandidateBatch) -> ScoreBatch | None:
        """The cached scores of `candidates`, a row each; NaN in a row without an entry. None: no row has one."""
        columns = {row: entry.columns[-1] for row, entry in enumerate(cached) if entry and entry.columns}
        if not any(columns.values()):
            return None
        scores_BK = np.full(candidates.mask_BK.shape, np.nan, np.float32)
        for row, column in columns.items():
            if len(scores_K := np.frombuffer(column, "<f4")):
                scores_BK[row, : len(scores_K)] = scores_K
                scores_BK[row, len(scores_K) :] = -np.inf
        return ScoreBatch(self._model_version, scores_BK)

    def keep(
        self, cached: Sequence[Cached | None], candidates: CandidateBatch, scores: ScoreBatch | None = None
    ) -> None:
        """Writes the rows that `cached` has no entry for, without waiting. While a write is under way further entries
        gather, up to `MOST_WAITING`; the rest is dropped, so that a slow store gets no more work.
        """
        rows = {row: entry for row, entry in enumerate(cached) if entry and entry.key and not entry.columns}
        if rows and len(self._waiting) < MOST_WAITING:
            self._waiting |= _entries(rows, candidates, scores if self._config.scores else None)
            if self._writing is None or self._writing.done():
                loop = asyncio.get_running_loop()
                # Not in the context of the batch: its log lines are about other requests too.
                self._writing = loop.create_task(self._write(), context=contextvars.Context())

    async def _write(self) -> None:
        while self._waiting:
            entries, self._waiting = self._waiting, {}
            try:
                await self._store.cache(entries, self._config.candidates_ttl_s)
            except StoreUnavailable as error:
                log.warning("candidates and scores were not kept: %s", error)


def _entries(rows: Mapping[int, Cached], candidates: CandidateBatch, scores: ScoreBatch | None) -> dict[str, bytes]:
    width_B = candidates.mask_BK.sum(axis=1).tolist()
    return {
        entry.key: msgpack.packb(
            (
                entry.version,
                candidates.item_ids_BK[row, : width_B[row]].astype("<i4").tobytes(),
                candidates.retrieval_scores_BK[row, : width_B[row]].astype("<f4").tobytes(),
                candidates.source_BK[row, : width_B[row]].tobytes(),
                candidates.source_scores_BKS[row, : width_B[row]].astype("<f4").tobytes(),
                scores.scores_BK[row, : width_B[row]].astype("<f4").tobytes() if scores else b"",
            )
        )
        for row, entry in rows.items()
    }
