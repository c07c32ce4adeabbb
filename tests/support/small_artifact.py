"""An artifact of the small data set, written by hand in a second: every file that training writes, nothing fitted.

The tables and vectors state how the data set was drawn: a user stays in one genre and watches its items in their order.
The user tower and the ranker have random weights, so scores differ from candidate to candidate and mean nothing.
There is no compiled code: scoring runs on the eager backend.

Shapes: N items, K neighbours, D dimensions, W = D - 1, C content values, A attributes, U users, E events.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import torch
from rich.console import Console

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.assembly import HISTORIES
from deployments.messages import PAD, Array, Floats, Ints
from deployments.models.dcn_v2 import DCNv2
from deployments.models.features.transforms import TableFeatures
from deployments.models.features.user_features import FEATURES_FILE, IDS_FILE
from deployments.stages.scoring import WEIGHTS
from graphs.data.dataset import Dataset, load_dataset
from graphs.data.histories import stored_histories
from graphs.evaluation.held_out import hold_out
from graphs.fit.drift_reference import write_reference
from graphs.fit.index_choice import choose_index
from graphs.fit.packaging import package
from graphs.fit.ranker import SHAPE
from graphs.fit.retrieval import schema_of, sources
from graphs.fit.towers import TrainableUserTower
from graphs.fit.transforms import DatasetFeatures, fit_features
from graphs.fit.two_tower import WIDTH
from tests.support.small_dataset import GENRES, small_args

REACH = {"sequence": (1, 30), "linear": (-15, 15), "together": (-30, 30)}
"""Per table: a neighbour is this many places away in the order of the item's genre, from the first to the last."""


def write_artifact(out: Path, dataset_folder: Path, seed: int = 1) -> Artifact:
    """Writes the artifact of the small data set to `out` and opens it."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    dataset = load_dataset(str(dataset_folder))
    events = dataset.interactions
    number_N = np.array([int(item_id[1:]) for item_id in dataset.items.column("item_id").to_pylist()])
    events_N = np.bincount(events.item_E, minlength=len(number_N))
    successes_N = np.bincount(events.item_E[events.success_E], minlength=len(number_N))
    vectors_ND = _vectors(rng, number_N, successes_N)
    index = choose_index(vectors_ND, vectors_ND)
    settings = {
        "sources": sources(dataset),
        "dimension": WIDTH + 1,
        "index": index.settings,
        "ranker": SHAPE,
        "example_users": dataset.users[:50],
        "seed": seed,
    }
    with ArtifactWriter(out, settings=settings) as writer:
        faiss.write_index(index.index, str(writer.file("items.faiss")))
        writer.table("catalogue.arrow", dataset.items)
        writer.tensors("items.safetensors", {"item_vectors_ND": vectors_ND})
        writer.tensors("neighbours.safetensors", _neighbours(rng, number_N))
        writer.tensors("popularity.safetensors", {"score_N": (np.log1p(successes_N) / 4).astype(np.float32)})
        features = fit_features(dataset)
        schema = schema_of(dataset, features.columns)
        schema.write(writer)
        _write_users(writer, dataset, features)
        tower = TrainableUserTower(WIDTH + 1, len(schema.user_features)).state_dict()
        history = {"history_vectors_NW": np.ascontiguousarray(vectors_ND[:, :-1])}
        writer.tensors("user_tower.safetensors", history | {name: value.numpy() for name, value in tower.items()})
        _write_item_features(writer, features.items, events_N, successes_N)
        model = DCNv2(len(schema.ranker), **SHAPE | {"deep": tuple(SHAPE["deep"])})  # type: ignore[arg-type]
        torch.nn.init.normal_(model.out.weight, std=0.1)
        writer.tensors(WEIGHTS, {name: value.numpy() for name, value in model.state_dict().items()})
        writer.table(HISTORIES, stored_histories(dataset))
        args = small_args("")
        write_reference(writer, dataset, args, seed)
        package(writer, hold_out(writer.preview(), dataset, args.stages), [], Console(quiet=True))
    return Artifact.open(str(out))


def _vectors(rng: np.random.Generator, number_N: Array, successes_N: Array) -> Floats:
    """Near each other: the items of a genre, the more so the closer they are in its order. The last dimension is the
    logarithm of the popularity."""
    n_genres = len(GENRES)
    genre_GW = rng.normal(size=(n_genres, WIDTH))
    angle_N = np.pi * (number_N // n_genres) / (len(number_N) // n_genres)
    along_2W = rng.normal(size=(2, WIDTH))
    vectors_NW = genre_GW[number_N % n_genres]
    vectors_NW = vectors_NW + np.cos(angle_N)[:, None] * along_2W[0] + np.sin(angle_N)[:, None] * along_2W[1]
    vectors_NW += 0.3 * rng.normal(size=vectors_NW.shape)
    return np.column_stack([vectors_NW / np.sqrt(WIDTH), 0.1 * np.log1p(successes_N)]).astype(np.float32)


def _neighbours(rng: np.random.Generator, number_N: Array) -> dict[str, Array]:
    """Per table ids [N, K], padded at the end, and weights [N, K] that fall with the distance."""
    tables: dict[str, Array] = {}
    row_of_number = np.argsort(number_N)
    for name, (first, last) in REACH.items():
        steps = sorted((step for step in range(first, last + 1) if step), key=abs)
        ids_NK = np.full((len(number_N), len(steps)), PAD, np.int32)
        weights_NK = np.zeros(ids_NK.shape, np.float32)
        for row, number in enumerate(number_N):
            found: Ints = number + len(GENRES) * np.array(steps)
            distance_K = np.abs(steps)[(found >= 0) & (found < len(number_N))]
            found = found[(found >= 0) & (found < len(number_N))]
            weight_K = np.sort(np.exp(-distance_K / 10) * rng.uniform(0.8, 1.0, len(found)))[::-1]
            ids_NK[row, : len(found)], weights_NK[row, : len(found)] = row_of_number[found], weight_K
        tables[f"{name}_ids_NK"], tables[f"{name}_weights_NK"] = ids_NK, weights_NK
    return tables


def _write_users(writer: ArtifactWriter, dataset: Dataset, features: DatasetFeatures) -> None:
    assert dataset.user_table is not None
    assert features.users is not None
    writer.table(IDS_FILE, dataset.user_table)
    features_UF = np.concatenate([features.users.content_NC, features.users.attributes_NA], axis=1)
    writer.tensors(FEATURES_FILE, {"features_UF": features_UF})


def _write_item_features(writer: ArtifactWriter, features: TableFeatures, events_N: Array, successes_N: Array) -> None:
    quality_N = (successes_N + 1) / (events_N + 2) - 0.5
    attributes_NA = np.column_stack([features.attributes_NA, np.log1p(successes_N), quality_N]).astype(np.float32)
    log_events_N = np.log1p(events_N).astype(np.float32)
    writer.tensors(
        "item_features.safetensors",
        {"content_NC": features.content_NC, "attributes_NA": attributes_NA, "log_events_N": log_events_N},
    )
