"""Writes the data of a shop as its owner would bring it: interactions.parquet, items.parquet and users.parquet.

A kind says what the shop recorded: all four event types; views alone; all events, but not their types; views and
purchases. Catalogue and tastes are the same for all kinds of a size and seed, and so is about the number of events.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.shop.catalogue import draw_catalogue, items_table
from benchmarks.shop.shoppers import CART, CLICK, PURCHASE, TYPES, VIEW, draw_shoppers, shop, users_table
from deployments.errors import ConfigError

EVENTS_PER_USER = 38.4

FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)

KINDS: Mapping[str, tuple[tuple[int, ...], float]] = {
    "types": ((VIEW, CLICK, CART, PURCHASE), 1.72),
    "views": ((VIEW,), 1.0),
    "untyped": ((VIEW, CLICK, CART, PURCHASE), 1.72),
    "purchase-after-view": ((VIEW, PURCHASE), 1.16),
}
"""Per kind: the event types that are recorded, and how many of them there are per view of a session."""


def write_shop(folder: str | Path, kind: str, n_users: int, n_items: int, seed: int = 1) -> Path:
    """Writes the three files into `folder`; the same arguments give the same bytes.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"no such kind of shop data: {kind!r}; there are: {', '.join(KINDS)}")
    recorded, per_view = KINDS[kind]
    goods, people, behaviour, gaps = (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(4))
    catalogue = draw_catalogue(n_items, goods)
    shoppers = draw_shoppers(catalogue, n_users, people)
    log = shop(catalogue, shoppers, EVENTS_PER_USER / per_view, behaviour)
    log = log.take(np.isin(log.type_X, recorded))
    items, users = items_table(catalogue, gaps), users_table(shoppers, gaps)
    start_us = int(FIRST_DAY.timestamp()) * 1_000_000
    micros_X = start_us + np.rint(log.second_X * 1e3).astype(np.int64) * 1000
    columns = {
        "user_id": users.column("user_id").combine_chunks().take(pa.array(log.user_X)),
        "item_id": items.column("item_id").combine_chunks().take(pa.array(log.item_X)),
        "timestamp": pa.array(micros_X, pa.timestamp("us", tz="UTC")),
    }
    if kind != "untyped":
        columns["event_type"] = pa.array(np.array(TYPES)[log.type_X], pa.string())
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (("interactions", pa.table(columns)), ("items", items), ("users", users)):
        pq.write_table(table, out / f"{name}.parquet")
    return out
