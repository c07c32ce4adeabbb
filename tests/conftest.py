"""What several suites share: the small data set, an artifact made by hand, one that is trained, and the marks.

A test gets its marks from its fixtures (MARK_OF), so that `make check` can leave out what is slow. A test that starts a
server without a fixture names the mark itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from deployments.assembly import seed
from deployments.store.base import StoreConfig
from deployments.store.memory import MemoryStore
from tests.support.in_process import recommender_builder
from tests.support.small_artifact import write_artifact
from tests.support.small_dataset import small_args, write_dataset, write_shop

MARK_OF = {
    "cluster": "cluster",
    "nodes": "cluster",
    "trained_artifact_path": "trained",
    "monitors": "server",
    "external_redis": "server",
    "server": "server",
    "supervise": "server",
}
"""Fixture → the mark of every test that uses it, directly or through another fixture."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each test the marks of its fixtures; before `-m` selects by them."""
    for item in items:
        for mark in {MARK_OF[name] for name in getattr(item, "fixturenames", ()) if name in MARK_OF}:
            item.add_marker(mark)


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="session")
def artifact_path(tmp_path_factory: pytest.TempPathFactory, dataset_folder: Path) -> str:
    """Of the artifact made by hand."""
    out = tmp_path_factory.mktemp("artifacts") / "by_hand"
    write_artifact(out, dataset_folder)
    return str(out)


@pytest.fixture(scope="session")
def artifact(artifact_path: str) -> Artifact:
    return Artifact.open(artifact_path)


@pytest.fixture(scope="session")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("data") / "shop")


@pytest.fixture(scope="session")
def shop_artifact(tmp_path_factory: pytest.TempPathFactory, shop_folder: Path) -> Artifact:
    """Made by hand; its events have types, and its answers may contain items of the user's history."""
    return write_artifact(tmp_path_factory.mktemp("artifacts") / "shop", shop_folder)


@pytest.fixture(scope="session")
def trained_artifact_path(tmp_path_factory: pytest.TempPathFactory, dataset_folder: Path) -> str:
    """Of the artifact that training makes, with compiled code: tens of seconds."""
    from graphs.training import train

    out = tmp_path_factory.mktemp("artifacts") / "trained"
    train(str(dataset_folder), str(out), small_args(str(out), "compiled"))
    return str(out)


@pytest.fixture(scope="session")
def trained_artifact(trained_artifact_path: str) -> Artifact:
    return Artifact.open(trained_artifact_path)


@pytest.fixture(scope="session")
def in_process(artifact: Artifact) -> Callable[..., Recommender]:
    """Builds recommenders over `artifact`: (store, config, other starts, drift) → Recommender."""
    return recommender_builder(artifact, "eager")


@pytest.fixture(scope="session")
def trained_in_process(trained_artifact: Artifact) -> Callable[..., Recommender]:
    """As `in_process`, over the trained artifact and its compiled code."""
    return recommender_builder(trained_artifact, "compiled")


@pytest.fixture
async def store(artifact: Artifact) -> MemoryStore:
    """In memory, with the artifact's histories."""
    store = MemoryStore(StoreConfig())
    await seed(store, artifact)
    return store
