"""A small data set with an order to learn, and the args of a recommender over it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphs.config import RecommenderArgs

GENRES = ("Action", "Comedy", "Drama", "Horror")
USERS, ITEMS, EVENTS = 80, 240, 40


def write_dataset(folder: Path) -> Path:
    """80 users who mostly watch one genre, in the order in which its 60 items came out."""
    rng = np.random.default_rng(7)
    genre_of_item = np.arange(ITEMS) % len(GENRES)
    rows: list[tuple[str, str, float, float]] = []
    for user in range(USERS):
        own = np.flatnonzero(genre_of_item == user % len(GENRES))
        start = int(rng.integers(0, len(own) - EVENTS // 2))
        walk = [*own[start : start + EVENTS * 3 // 4], *rng.integers(0, ITEMS, EVENTS // 4)]
        for step, item in enumerate(dict.fromkeys(int(i) for i in walk)):
            liked = genre_of_item[item] == user % len(GENRES)
            weight = float(rng.choice([0.8, 1.0] if liked else [0.2, 0.4]))
            rows.append((f"u{user}", f"i{item}", 1_600_000_000.0 + 3600 * step + user, weight))
    users, items, times, weights = zip(*rows, strict=True)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"user_id": users, "item_id": items, "timestamp": times, "weight": weights}),
        folder / "interactions.parquet",
    )
    pq.write_table(
        pa.table(
            {
                "item_id": [f"i{i}" for i in range(ITEMS)],
                "title": [f"Title {i}" for i in range(ITEMS)],
                "genres": [[GENRES[i % 4]] + (["Classic"] if i % 7 == 0 else []) for i in range(ITEMS)],
                "year": [1980.0 + i % 40 for i in range(ITEMS)],
            }
        ),
        folder / "items.parquet",
    )
    pq.write_table(
        pa.table({"user_id": [f"u{u}" for u in range(USERS)], "age": [20.0 + u % 50 for u in range(USERS)],
                  "country": ["NO" if u % 3 else None for u in range(USERS)]}),
        folder / "users.parquet",
    )  # fmt: skip
    return folder


def write_shop(folder: Path) -> Path:
    """The same users and items, with event types: each item is viewed, most are put into the cart, half of these are
    bought; viewed items come again."""
    rng = np.random.default_rng(8)
    write_dataset(folder)
    rows: list[tuple[str, str, float, str]] = []
    for event in pq.read_table(folder / "interactions.parquet").to_pylist():
        user, item, time = event["user_id"], event["item_id"], event["timestamp"]
        kinds = ["view", "cart", "purchase"][: int(rng.choice([1, 2, 3] if event["weight"] >= 0.8 else [1, 1, 2]))]
        rows += [(user, item, time + 600 * step, kind) for step, kind in enumerate(kinds)]
        if rng.random() < 0.3:
            rows.append((user, item, time + 7200, "View"))
    users, items, times, kinds = zip(*rows, strict=True)
    pq.write_table(
        pa.table({"user_id": users, "item_id": items, "timestamp": times, "event_type": kinds}),
        folder / "interactions.parquet",
    )
    return folder


def small_args(artifact: str, backend: str = "eager") -> RecommenderArgs:
    """The args of a recommender over an artifact of the small data set."""
    stages = {"candidates": {"config": {"n_candidates": 100}}, "scoring": {"config": {"backend": backend}}}
    return RecommenderArgs.model_validate({"artifact": artifact, "stages": stages})
