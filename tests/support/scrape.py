"""The samples of `GET /metrics`."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics.snapshots import OF_SAMPLE
from tests.support.ray_cluster import Cluster

Scraped = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(cluster: Cluster) -> Scraped:
    """Every sample of one scrape, of whichever replica answers."""
    answer = cluster.client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(scraped: Scraped, name: str, **labels: str) -> float:
    return scraped.get((name, tuple(sorted(labels.items()))), 0.0)


def fallen(before: Scraped, after: Scraped) -> dict[object, tuple[float, float]]:
    """The counters that are lower than before, or gone."""
    counters = {key: v for key, v in before.items() if OF_SAMPLE[key[0]].kind != "gauge"}
    return {key: (v, after.get(key, 0.0)) for key, v in counters.items() if after.get(key, 0.0) < v - 1e-6}
