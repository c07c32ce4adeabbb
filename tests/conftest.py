"""What several suites share: a small data set made here, and the artifact that training makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from deployments.assembly import FunnelConfig, assemble, seed
from deployments.pipeline.stage_client import Start, local
from deployments.store.base import Store, StoreConfig
from deployments.store.memory import MemoryStore
from deployments.telemetry.drift_client import DriftCall
from graphs.config import STAGES, RecommenderArgs
from graphs.training import train
from monitoring.drift.config import DriftConfig

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
                  "country": ["NO"] * USERS}),
        folder / "users.parquet",
    )  # fmt: skip
    return folder


def small_args(artifact: str, backend: str = "compiled") -> RecommenderArgs:
    """The args of a recommender over the small artifact."""
    stages = {"candidates": {"config": {"n_candidates": 100}}, "scoring": {"config": {"backend": backend}}}
    return RecommenderArgs.model_validate({"artifact": artifact, "stages": stages})


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="session")
def artifact_path(tmp_path_factory: pytest.TempPathFactory, dataset_folder: Path) -> str:
    out = tmp_path_factory.mktemp("artifacts") / "small"
    train(str(dataset_folder), str(out), small_args(str(out)))
    return str(out)


@pytest.fixture(scope="session")
def artifact(artifact_path: str) -> Artifact:
    return Artifact.open(artifact_path)


@pytest.fixture(scope="session")
def in_process(artifact: Artifact) -> Callable[..., Recommender]:
    """Builds a recommender whose stages run in this process: (store, config, other starts, drift) → Recommender."""
    stages = small_args("").stages
    built = {name: cls(artifact, getattr(stages, name).config) for name, (_, cls) in STAGES.items()}
    plain: dict[str, Start] = {name: local(stage, 4) for name, stage in built.items()}
    plain["similar"] = local(built["candidates"].similar, 4)

    def build(
        store: Store | None = None,
        config: FunnelConfig | None = None,
        starts: dict[str, Start] | None = None,
        drift: tuple[DriftConfig, DriftCall] | None = None,
    ) -> Recommender:
        config = config or FunnelConfig()
        used = plain | (starts or {})
        slots = dict.fromkeys(used, 4)
        return assemble(artifact, store or MemoryStore(config.store), used, slots, config, drift=drift)

    return build


@pytest.fixture
async def store(artifact: Artifact) -> MemoryStore:
    """In memory, with the artifact's histories."""
    store = MemoryStore(StoreConfig())
    await seed(store, artifact)
    return store
