"""Artifacts of any size without training: clustered items, random weights; the same files and shapes as trained ones.

Their recommendations mean nothing, their costs are real: N items in clusters, vectors of 64 dimensions and a bias,
neighbours within the cluster, a ranker of the shape that training gives, users whose events stay in two clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import torch

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.assembly import HISTORIES
from deployments.messages import Array, Floats, HistoryBatch
from deployments.models.dcn_v2 import DCNv2
from deployments.models.features.schema import Schema
from deployments.models.features.transforms import Column, MultiHot, Standardise
from deployments.stages.candidates import CandidateConfig
from deployments.stages.scoring import WEIGHTS
from deployments.store.event_types import UNTYPED
from graphs.config import CandidateArgs, Stages
from graphs.console import output_console
from graphs.evaluation.held_out import (
    MAX_REQUESTS,
    TOP,
    HeldOutBatch,
    HeldOutRequests,
    TrainedRanker,
    recorded_messages,
)
from graphs.evaluation.offline_funnel import OfflineFunnel
from graphs.fit.index_choice import QUERIES, choose_index
from graphs.fit.packaging import combinations, package
from graphs.fit.ranker import SHAPE
from graphs.fit.retrieval import HISTORY, SOURCES
from graphs.fit.towers import TrainableUserTower
from graphs.fit.two_tower import WIDTH

CLUSTER = 500
"""Items per cluster."""

GENRES = [str(g) for g in range(20)]
TABLES = ("sequence", "linear", "together")
TYPES = ("view", "click", "cart", "purchase")
START_S = 1_700_000_000.0


@dataclass(frozen=True)
class Size:
    """`neighbours`: per item in each of three tables; `events`: per user on average (geometric); `wide`: factor on the
    quotas of the sources; `typed`: events have TYPES, and answers may contain items of the history; `cross_rank`,
    `deep`: of the ranking model."""

    items: int
    users: int = 10_000
    events: int = 8
    neighbours: int = 32
    wide: float = 2.0
    typed: bool = False
    cross_rank: int = SHAPE["cross_rank"]  # type: ignore[assignment]
    deep: tuple[int, ...] = tuple(SHAPE["deep"])  # type: ignore[arg-type]

    @property
    def ranker(self) -> dict[str, Any]:
        """The manifest's `settings.ranker`."""
        return SHAPE | {"cross_rank": self.cross_rank, "deep": list(self.deep)}


def write(out: str, size: Size, seed: int = 1) -> Artifact:
    """Writes the artifact to `out` and opens it."""
    rng = np.random.default_rng(seed)
    n_items = size.items
    cluster_N = np.arange(n_items) // CLUSTER
    popularity_N = rng.permutation(1 / (np.arange(n_items) + 20.0) ** 0.8).astype(np.float32)
    popularity_N *= 200 / popularity_N.max()
    vectors_ND = _vectors(rng, cluster_N, popularity_N)
    queries_QD = vectors_ND[rng.integers(0, n_items, QUERIES)] + vectors_ND[rng.integers(0, n_items, QUERIES)]
    queries_QD[:, -1] = 1
    chosen = choose_index(vectors_ND, queries_QD)
    own_sources = [HISTORY, *SOURCES] if size.typed else SOURCES
    sources = [spec | {"quota": max(1, int(spec["quota"] * size.wide))} for spec in own_sources]
    schema = Schema.of((str(spec["name"]) for spec in sources), _item_columns(), TYPES if size.typed else None)
    settings = {
        "sources": sources,
        "dimension": WIDTH + 1,
        "index": chosen.settings,
        "ranker": size.ranker,
        "example_users": [f"u{user}" for user in range(min(size.users, 50))],
    }
    with ArtifactWriter(out, settings=settings) as writer:
        schema.write(writer)
        faiss.write_index(chosen.index, str(writer.file("items.faiss")))
        writer.tensors("items.safetensors", {"item_vectors_ND": vectors_ND})
        torch.manual_seed(seed)
        tower = {name: value.numpy() for name, value in TrainableUserTower(WIDTH + 1, 0).state_dict().items()}
        history = {"history_vectors_NW": np.ascontiguousarray(vectors_ND[:, :-1])}
        writer.tensors("user_tower.safetensors", history | tower)
        writer.tensors("neighbours.safetensors", _neighbours(rng, n_items, size.neighbours))
        writer.tensors("popularity.safetensors", {"score_N": np.log1p(popularity_N) / 4})
        genre_N = rng.integers(0, len(GENRES), n_items)
        year_N = rng.integers(1980, 2025, n_items)
        columns = np.column_stack([(year_N - 2000) / 12, np.log1p(popularity_N), rng.normal(size=n_items)])
        content_NC = np.zeros((n_items, len(GENRES)), np.float32)
        content_NC[np.arange(n_items), genre_N] = 1
        features = {"content_NC": content_NC, "attributes_NA": columns.astype(np.float32)}
        writer.tensors("item_features.safetensors", features | {"log_events_N": np.log1p(popularity_N)})
        writer.table(
            "catalogue.arrow",
            pa.table(
                {
                    "item_id": pa.array([f"i{item}" for item in range(n_items)]),
                    "title": pa.array([f"Title {item}" for item in range(n_items)]),
                    "genre": pa.DictionaryArray.from_arrays(genre_N, GENRES).cast("string"),
                    "year": year_N.astype(np.float64),
                }
            ),
        )
        writer.tensors(WEIGHTS, _ranker(size, len(schema.ranker)))
        writer.table(HISTORIES, _histories(rng, size))
        package(writer, _held_out(writer.preview(), rng), combinations("compiled", "auto"), output_console())
    return Artifact.open(out)


def histories(artifact: Artifact, batch: int, length: int, seed: int) -> HistoryBatch:
    """Histories of `length` events each; the items of a user lie near two random items of the catalogue."""
    rng = np.random.default_rng(seed)
    n_items = _n_items(artifact)
    shape = (batch, length)
    centre_B2 = rng.integers(0, n_items, (batch, 2))
    item_BH = np.take_along_axis(centre_B2, rng.integers(0, 2, shape), axis=1) + rng.integers(0, CLUSTER, shape)
    schema = Schema.load(artifact)
    types = schema.event_types
    typed = shape if types is not None else (batch, 0)
    return HistoryBatch(
        artifact.model_version,
        (item_BH % n_items).astype(np.int32),
        np.tile(np.arange(length, dtype=np.float64), (batch, 1)),
        rng.choice([0.4, 0.8, 1.0], shape).astype(np.float32),
        np.full(shape, types is None),
        rng.integers(0, max(1, len(types or ())), typed, dtype=np.int16),
        rng.integers(0, 1_000_000, typed).astype(np.float32),
        np.zeros((batch, len(schema.user_features)), np.float32),
    )


def _item_columns() -> list[Column]:
    genre = MultiHot(values=tuple(GENRES), buckets=0, seed=0)
    year = Standardise(log=False, center=2000.0, scale=12.0, clip=5.0)
    return [
        Column(name="genre", source="item", dtype="string", shape=(), missing=0.0, transform=genre),
        Column(name="year", source="item", dtype="float64", shape=(), missing=0.0, transform=year),
    ]


def _n_items(artifact: Artifact) -> int:
    return len(artifact.tensors("popularity.safetensors")["score_N"])


def _held_out(artifact: Artifact, rng: np.random.Generator) -> HeldOutRequests:
    """For the parity gate: random requests; one candidate in fifty counts as relevant."""
    candidate_config = CandidateConfig(n_candidates=min(200, _n_items(artifact)))
    funnel = OfflineFunnel(artifact, Stages(candidates=CandidateArgs(config=candidate_config)))
    trained = TrainedRanker(artifact)
    held_out = HeldOutRequests([], [])
    for _ in range(MAX_REQUESTS // 40):
        random_histories = histories(artifact, 40, 20, int(rng.integers(1 << 30)))
        retrieved = funnel.retrieve(random_histories, TOP)
        _, profiles, candidates = retrieved
        trained_scores_BK = trained(profiles, candidates)
        relevant_BK = (rng.random(candidates.mask_BK.shape) < 0.02) & candidates.mask_BK
        n_relevant_B = relevant_BK.sum(axis=1, dtype=np.int32)
        held_out.batches.append(HeldOutBatch(profiles, candidates, relevant_BK, n_relevant_B, trained_scores_BK))
        if not held_out.recorded:
            held_out.recorded.extend(recorded_messages(artifact, random_histories, retrieved))
    return held_out


def _vectors(rng: np.random.Generator, cluster_N: Array, popularity_N: Floats) -> Floats:
    """Vectors in clusters of clusters, as in real catalogues, with the log popularity as the bias."""
    n_clusters = int(cluster_N[-1]) + 1
    theme_TW = rng.normal(size=(max(1, n_clusters // 20), WIDTH)).astype(np.float32)
    centre_CW = theme_TW[np.arange(n_clusters) // 20 % len(theme_TW)]
    centre_CW = centre_CW + 0.5 * rng.normal(size=centre_CW.shape).astype(np.float32)
    vectors_ND = np.empty((len(cluster_N), WIDTH + 1), np.float32)
    for start in range(0, len(cluster_N), 100_000):
        own = cluster_N[start : start + 100_000]
        noise = rng.standard_normal((len(own), WIDTH), np.float32)
        vectors_ND[start : start + 100_000, :-1] = (centre_CW[own] + 0.5 * noise) / np.sqrt(WIDTH)
    vectors_ND[:, -1] = 0.1 * np.log1p(popularity_N)
    return vectors_ND


def _neighbours(rng: np.random.Generator, n_items: int, width: int) -> dict[str, Array]:
    """Per table `width` items near each item, with falling weights."""
    tables: dict[str, Array] = {}
    for name in TABLES:
        step_NW = rng.integers(1, min(CLUSTER, n_items - 1), (n_items, width), dtype=np.int32)
        ids_NW = (np.arange(n_items, dtype=np.int32)[:, None] + step_NW) % np.int32(n_items)
        tables[f"{name}_ids_NK"] = ids_NW
        tables[f"{name}_weights_NK"] = -np.sort(-rng.random((n_items, width), np.float32), axis=1)
    return tables


def _ranker(size: Size, n_features: int) -> dict[str, Array]:
    model = DCNv2(n_features, **size.ranker | {"deep": size.deep})
    torch.nn.init.normal_(model.out.weight, std=0.1)
    return {name: value.numpy() for name, value in model.state_dict().items()}


def _histories(rng: np.random.Generator, size: Size) -> pa.Table:
    """Each user's events lie near two items, oldest first, an hour apart."""
    count_U = 1 + rng.geometric(1 / size.events, size.users)
    user_E = np.repeat(np.arange(size.users), count_U)
    place_E = np.arange(len(user_E)) - np.repeat(np.cumsum(count_U) - count_U, count_U)
    centre_U2 = rng.integers(0, size.items, (size.users, 2))
    item_E = (centre_U2[user_E, rng.integers(0, 2, len(user_E))] + rng.integers(0, CLUSTER, len(user_E))) % size.items
    return pa.table(
        {
            "user_id": pa.DictionaryArray.from_arrays(user_E, [f"u{u}" for u in range(size.users)]).cast("string"),
            "item_id": pa.DictionaryArray.from_arrays(item_E, [f"i{i}" for i in range(size.items)]).cast("string"),
            "timestamp": START_S + 3600.0 * place_E + user_E % 3600,
            "weight": rng.choice([0.4, 0.8, 1.0], len(user_E)),
            "event_type": pa.DictionaryArray.from_arrays(
                rng.integers(0, len(TYPES) if size.typed else 1, len(user_E)), list(TYPES) if size.typed else [UNTYPED]
            ).cast("string"),
            "event_id": pa.nulls(len(user_E), pa.string()),
        }
    )
