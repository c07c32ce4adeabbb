"""The one cluster of the session. A deployment takes half a minute on two cores, so tests that need the same
configuration follow each other: a configuration that runs is not deployed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from tests.support.external_redis import ExternalRedis
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config, changed

ORDER = (
    (
        "logs",
        "doors",
        "drift",
        "alerts",
    ),  # `observed`; a young cluster: Ray's metrics page grows with every replica there was
    # serve_config.yaml as it is
    ("api", "bad_config", "bad_requests", "overload", "crashes", "metrics", "redeploys", "retraining"),
    ("serve_command", "autoscaling", "shards", "external_redis", "gpus", "nodes"),  # each its own
)


HERE = Path(__file__).parent
SHOP = "https://shop.example"
"""The origin whose pages may call the application that is `observed`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The modules here come in ORDER, after all others: those do not share the machine with a cluster."""
    names = [name for group in ORDER for name in group]

    def position(item: pytest.Item) -> int:
        module = item.path.stem.removeprefix("test_")
        return names.index(module) if item.path.parent == HERE and module in names else -1

    items.sort(key=position)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def artifact_path(trained_artifact_path: str) -> str:
    """Users serve what training made."""
    return trained_artifact_path


@pytest.fixture(scope="session")
def artifact(trained_artifact: Artifact) -> Artifact:
    return trained_artifact


@pytest.fixture(scope="session")
def in_process(trained_in_process: Callable[..., Recommender]) -> Callable[..., Recommender]:
    return trained_in_process


@pytest.fixture(scope="session")
def config(cluster: Cluster, artifact_path: str) -> Config:
    """serve_config.yaml for this cluster."""
    return cluster.config(artifact_path)


@pytest.fixture
def served(cluster: Cluster, config: Config) -> Cluster:
    """The cluster with `config` running."""
    cluster.deploy(config)
    return cluster


@pytest.fixture(scope="session")
def drift_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of drift reports."""
    return tmp_path_factory.mktemp("drift")


@pytest.fixture
def observed(cluster: Cluster, config: Config, drift_folder: Path) -> Cluster:
    """The cluster with a log line for every request, drift verdicts and reports within seconds, and a Scorer that the
    policy scales between one and one."""
    drift = {
        "window_s": 1,
        "sampling": {"every_s": 0.5},
        "verdicts": {"min_rows": 15, "enter_windows": 2, "of_windows": 3},
        "deep": {"every_s": 10, "rows": 50, "folder": str(drift_folder)},
    }
    logs = {"success_share": 1.0, "most_per_s": 0}
    http = {"cors": {"origins": [SHOP]}}
    cluster.deploy(changed(config, drift=drift, logs=logs, http=http, stages__scoring__max_replicas=1))
    return cluster


@pytest.fixture(scope="module")
def external_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExternalRedis]:
    """A server that keeps its data over a restart."""
    server = ExternalRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()
