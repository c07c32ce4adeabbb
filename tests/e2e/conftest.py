"""The one cluster of the session. A test says which configuration it needs; what runs already is not deployed again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster, Config
from tests.e2e.own_redis import OwnRedis


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def config(cluster: Cluster, artifact_path: str) -> Config:
    """serve_config.yaml for this cluster."""
    return cluster.config(artifact_path)


@pytest.fixture
def served(cluster: Cluster, config: Config) -> Cluster:
    """The cluster with `config` running."""
    cluster.deploy(config)
    return cluster


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRedis]:
    """A server that keeps its data over a restart."""
    server = OwnRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()
