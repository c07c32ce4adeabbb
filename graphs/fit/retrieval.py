"""Fits the inputs of the candidate stage and of the features, and writes them into an artifact.

Shapes: N items, C content values, A attributes, U users, F features of users, R rows of the user table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.artifact.writer import ArtifactWriter
from deployments.messages import Floats
from deployments.models.features.schema import Schema
from deployments.models.features.transforms import Column, TableFeatures
from deployments.models.features.user_features import FEATURES_FILE, IDS_FILE
from graphs.data.dataset import Dataset, Interactions
from graphs.fit import item_to_item
from graphs.fit.index_choice import choose_index
from graphs.fit.transforms import DatasetFeatures
from graphs.fit.two_tower import fit_two_tower

MAX_EVENT_TYPES, MIN_TYPE_SHARE = 8, 0.001
"""Most types of events that are features, the most frequent ones, and the least share of a type that is one."""

SOURCES: list[dict[str, Any]] = [
    {"name": "sequence_long", "kind": "neighbours", "table": "sequence", "decay": 20.0, "quota": 100},
    {"name": "sequence_short", "kind": "neighbours", "table": "sequence", "decay": 5.0, "quota": 50},
    {"name": "linear_short", "kind": "neighbours", "table": "linear", "decay": 10.0, "quota": 70},
    {"name": "linear_long", "kind": "neighbours", "table": "linear", "decay": 80.0, "quota": 100},
    {"name": "together_long", "kind": "neighbours", "table": "together", "decay": 20.0, "quota": 70},
    {"name": "together_short", "kind": "neighbours", "table": "together", "decay": 3.0, "quota": 30},
    {"name": "popular", "kind": "popularity", "quota": 30},
    {"name": "two_tower", "kind": "vectors", "quota": 100},
]
HISTORY: dict[str, Any] = {"name": "history", "kind": "history", "decay": 20.0, "quota": 80}


def sources(dataset: Dataset) -> list[dict[str, Any]]:
    """The manifest's `settings.sources`: with the history, first, if answers may contain items of it: an
    item that several sources rank first is from the first of them."""
    return [HISTORY, *SOURCES] if dataset.repeats else SOURCES


def event_types(dataset: Dataset) -> list[str] | None:
    """The types that the features of the user's own events tell apart; None: there are no such features."""
    if not dataset.repeats:
        return None
    count_T = np.bincount(dataset.interactions.type_E, minlength=len(dataset.event_types))
    frequent = np.argsort(-count_T, kind="stable")[:MAX_EVENT_TYPES]
    names = [dataset.event_types[t] for t in frequent if count_T[t] >= MIN_TYPE_SHARE * count_T.sum()]
    return names if len(names) > 1 else []  # the share of the only type says nothing


def schema_of(dataset: Dataset, tables: Sequence[Column]) -> Schema:
    """The schema of an artifact with these columns of users and items."""
    return Schema.of((source["name"] for source in sources(dataset)), tables, event_types(dataset))


def write_retrieval(
    writer: ArtifactWriter,
    dataset: Dataset,
    features: DatasetFeatures,
    events: Interactions,
    seed: int,
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Fits on `events` and writes catalogue, schema, neighbour tables, vectors, popularity and features."""
    n_items = len(dataset.items)
    tables = {
        "sequence": item_to_item.sequence_ridge(events, n_items),
        "linear": item_to_item.linear(events, n_items),
        "together": item_to_item.co_occurrence(events, n_items),
    }
    progress(0.4)
    content_NC, attributes_NA = features.items.content_NC, features.items.attributes_NA
    norm_N1 = np.maximum(np.sqrt(content_NC.sum(axis=1, keepdims=True)), 1)
    tower_features = np.concatenate([content_NC / norm_N1, attributes_NA], axis=1)
    user_features_UF = _write_users(writer, dataset, features)
    towers = fit_two_tower(events, tower_features, user_features_UF, seed, lambda share: progress(0.4 + 0.6 * share))

    writer.table("catalogue.arrow", dataset.items)
    writer.tensors(
        "neighbours.safetensors",
        {f"{name}_ids_NK": ids for name, (ids, _) in tables.items()}
        | {f"{name}_weights_NK": weights for name, (_, weights) in tables.items()},
    )
    writer.tensors("items.safetensors", {"item_vectors_ND": towers.item_vectors_ND})
    writer.tensors("user_tower.safetensors", {"history_vectors_NW": towers.history_vectors_NW, **towers.user_tower})
    chosen = choose_index(towers.item_vectors_ND, towers.user_vectors_QD)
    faiss.write_index(chosen.index, str(writer.file("items.faiss")))
    schema_of(dataset, features.columns).write(writer)
    writer.settings = writer.settings | {
        "sources": sources(dataset),
        "dimension": towers.item_vectors_ND.shape[1],
        "index": chosen.settings,
    }
    _write_popularity(writer, events, n_items)
    _write_item_features(writer, features.items, events, n_items)


def _write_users(writer: ArtifactWriter, dataset: Dataset, features: DatasetFeatures) -> Floats:
    """Writes the columns and the features of the user table; returns the features [U, F] of `dataset.users`."""
    if features.users is None or not features.users.content + features.users.attributes:
        return np.zeros((len(dataset.users), 0), np.float32)
    assert dataset.user_table is not None
    features_RF = np.concatenate([features.users.content_NC, features.users.attributes_NA], axis=1)
    used = [column.name for column in features.columns if column.source == "user"]
    writer.table(IDS_FILE, dataset.user_table.select(["user_id", *used]))
    writer.tensors(FEATURES_FILE, {"features_UF": features_RF})
    row_U = pc.index_in(pa.array(dataset.users), dataset.user_table.column("user_id").combine_chunks())
    row_U = row_U.fill_null(-1).to_numpy()
    return np.where(row_U[:, None] >= 0, features_RF[row_U], np.float32(0))


def _write_popularity(writer: ArtifactWriter, events: Interactions, n_items: int) -> None:
    """Half the share of all successes, half the share of recent events (decaying over the last tenth of the covered
    time), as a logarithm scaled to about 0..1."""
    first_s, last_s = float(events.timestamp_E.min()), float(events.timestamp_E.max())
    recency_E = np.exp((events.timestamp_E - last_s) / max((last_s - first_s) / 10, 1.0))
    recent_N = np.bincount(events.item_E, recency_E, n_items)
    successes_N = np.bincount(events.item_E[events.success_E], minlength=n_items)
    share_N = 0.5 * recent_N / max(recent_N.sum(), 1e-9) + 0.5 * successes_N / max(successes_N.sum(), 1)
    writer.tensors("popularity.safetensors", {"score_N": (np.log1p(1e4 * share_N) / 4).astype(np.float32)})


def _write_item_features(writer: ArtifactWriter, features: TableFeatures, events: Interactions, n_items: int) -> None:
    events_N = np.bincount(events.item_E, minlength=n_items)
    successes_N = np.bincount(events.item_E[events.success_E], minlength=n_items)
    mean_weight = float(events.weight_E.mean())
    quality_N = (np.bincount(events.item_E, events.weight_E, n_items) + 5 * mean_weight) / (events_N + 5) - mean_weight
    attributes_NA = np.column_stack([features.attributes_NA, np.log1p(successes_N), 5 * quality_N])
    writer.tensors(
        "item_features.safetensors",
        {
            "content_NC": features.content_NC,
            "attributes_NA": attributes_NA.astype(np.float32),
            "log_events_N": np.log1p(events_N).astype(np.float32),
        },
    )
