"""Properties of the result cache's entries: what is written is read back, and nothing else is taken for it."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.messages import PAD, CandidateBatch, ScoreBatch
from deployments.pipeline.batch import Cached
from deployments.pipeline.request import Query
from deployments.pipeline.result_cache import CacheConfig, ResultCache
from deployments.store.base import StoreConfig
from deployments.store.memory import MemoryStore

SOURCES = ("popular", "vectors")
VERSION = b"12345678"
FINITE = st.floats(-1e6, 1e6, width=32)


def cache_over(store: MemoryStore, scores: bool) -> ResultCache:
    return ResultCache(store, CacheConfig(candidates_ttl_s=60, scores=scores), "m1", "scope", SOURCES)


@st.composite
def candidate_batches(draw: st.DrawFn) -> tuple[CandidateBatch, ScoreBatch]:
    """Rows of different widths, padded at their end, with scores."""
    widths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    shape = (len(widths), max(widths))
    mask_BK = np.arange(shape[1]) < np.array(widths)[:, None]

    def column(values: st.SearchStrategy[float], size: tuple[int, ...], dtype: type) -> np.ndarray:
        count = int(np.prod(size))
        return np.array(draw(st.lists(values, min_size=count, max_size=count)), dtype).reshape(size)

    items_BK = column(st.integers(0, 2**31 - 1), shape, np.int32)
    sources_BK = column(st.integers(0, 1), shape, np.int8)
    scores_BK = column(FINITE, shape, np.float32)
    by_source_BKS = column(FINITE, (*shape, len(SOURCES)), np.float32)
    candidates = CandidateBatch(
        model_version="m1",
        item_ids_BK=np.where(mask_BK, items_BK, PAD).astype(np.int32),
        retrieval_scores_BK=np.where(mask_BK, scores_BK, 0).astype(np.float32),
        source_BK=np.where(mask_BK, sources_BK, PAD).astype(np.int8),
        source_scores_BKS=np.where(mask_BK[..., None], by_source_BKS, 0).astype(np.float32),
        mask_BK=mask_BK,
        sources=SOURCES,
    )
    return candidates, ScoreBatch("m1", np.where(mask_BK, scores_BK, -np.inf).astype(np.float32))


async def kept(candidates: CandidateBatch, scores: ScoreBatch | None, keep_scores: bool) -> list[Cached]:
    """What the cache reads back after it has written every row."""
    store = MemoryStore(StoreConfig())
    cache = cache_over(store, keep_scores)
    keys = [f"m1:{row}" for row in range(len(candidates.mask_BK))]
    cache.keep([Cached(key, VERSION) for key in keys], candidates, scores)
    await asyncio.sleep(0)
    assert cache._writing is not None
    await cache._writing
    found = await store.histories(["u"] * len(keys), keys)
    return [cache.found(key, VERSION, entry) for key, entry in zip(keys, found.cached, strict=True)]


@given(candidate_batches(), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=50)
def test_candidates_and_scores_are_read_back_to_the_last_bit(
    batch: tuple[CandidateBatch, ScoreBatch], with_scores: bool, keep_scores: bool
) -> None:
    candidates, scores = batch
    entries = asyncio.run(kept(candidates, scores if with_scores else None, keep_scores))
    cache = cache_over(MemoryStore(StoreConfig()), keep_scores)
    again = cache.candidates(entries)
    for name in ("item_ids_BK", "retrieval_scores_BK", "source_BK", "source_scores_BKS", "mask_BK"):
        np.testing.assert_array_equal(getattr(again, name), getattr(candidates, name))
    known = cache.scores(entries, again)
    has_items_B = candidates.mask_BK.any(axis=1)
    if with_scores and keep_scores and has_items_B.any():
        assert known is not None
        np.testing.assert_array_equal(known.scores_BK[has_items_B], scores.scores_BK[has_items_B])
    elif known is not None:
        assert np.isnan(known.scores_BK).all()


@given(st.binary(max_size=16).filter(lambda version: version != VERSION), candidate_batches())
@settings(deadline=None, max_examples=20)
def test_an_entry_of_another_version_of_the_history_is_a_miss(
    version: bytes, batch: tuple[CandidateBatch, ScoreBatch]
) -> None:
    entries = asyncio.run(kept(*batch, True))
    cache = cache_over(MemoryStore(StoreConfig()), True)
    for entry in entries:
        assert entry.columns
    store = MemoryStore(StoreConfig())

    async def written() -> bytes | None:
        writer = cache_over(store, True)
        writer.keep([Cached("m1:0", VERSION)], batch[0].take(slice(1)), batch[1].take(slice(1)))
        await asyncio.sleep(0)
        assert writer._writing is not None
        await writer._writing
        return (await store.histories(["u"], ["m1:0"])).cached[0]

    assert not cache.found("m1:0", version, asyncio.run(written())).columns


QUERIES = st.builds(
    Query,
    user_id=st.text(max_size=8),
    n=st.integers(1, 3),
    deadline=st.just(0.0),
    excluded=st.lists(st.integers(0, 3), max_size=2).map(lambda items: np.array(items, np.int32)),
)


@given(QUERIES, QUERIES)
def test_two_requests_share_a_key_only_if_all_that_candidates_depend_on_is_equal(one: Query, other: Query) -> None:
    cache = cache_over(MemoryStore(StoreConfig()), True)

    def parts(query: Query) -> tuple[object, ...]:
        return query.user_id, query.n, query.excluded.tolist(), query.filter

    assert (cache.key(one) == cache.key(other)) == (parts(one) == parts(other))
