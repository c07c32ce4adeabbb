"""The messages between a replica and the metrics hub (a replica's snapshot, the application's totals), and Prometheus'
text of the totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family

from monitoring.metrics.declarations import DECLARED, Metric

Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name of a sample and its labels, sorted by name."""

SeriesValues = dict[Series, float]

_SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
OF_SAMPLE: Mapping[str, Metric] = {
    metric.name + suffix: metric for metric in DECLARED.values() for suffix in _SUFFIXES[metric.kind]
}
"""Name of a sample → its metric."""


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    """The `sequence`-th snapshot of a replica: all counts since its process started (`epoch`, Unix nanoseconds).
    `counters`: samples that only grow, also the buckets of histograms.
    """

    replica: str
    epoch: int
    sequence: int
    deployment: str
    counters: SeriesValues
    gauges: SeriesValues


@dataclass(frozen=True, slots=True)
class ApplicationTotals:
    """The samples of the whole application, for Prometheus."""

    counters: SeriesValues
    gauges: SeriesValues


def series(metric: Metric, **labels: str) -> Series:
    """The series of a counter or gauge; ValueError if the labels are not those declared."""
    if set(labels) != set(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
    return metric.name, tuple(sorted(labels.items()))


def add(into: SeriesValues, values: Mapping[Series, float]) -> None:
    """Adds `values` to `into`, series by series."""
    for key, value in values.items():
        into[key] = into.get(key, 0.0) + value


class _Collector:
    """A collector of prometheus_client over given samples."""

    def __init__(self, totals: ApplicationTotals) -> None:
        self._samples = {**totals.counters, **totals.gauges}

    def collect(self) -> Iterable[Family]:
        families: dict[str, Family] = {}
        for (name, labels), value in sorted(self._samples.items(), key=_order):
            metric = OF_SAMPLE.get(name)
            if metric is None:
                continue  # declared by another version of the code
            if metric.name not in families:
                families[metric.name] = Family(metric.name.removesuffix("_total"), metric.help, metric.kind)
            families[metric.name].add_sample(name, dict(labels), value)
        return [families[name] for name in DECLARED if name in families]


def text(totals: ApplicationTotals) -> bytes:
    """Prometheus' text exposition; buckets in ascending order, families in the order of declaration."""
    registry = CollectorRegistry()
    registry.register(_Collector(totals))
    return generate_latest(registry)


def _order(item: tuple[Series, float]) -> tuple[list[tuple[str, str]], float, str]:
    (name, labels), _ = item
    others = [label for label in labels if label[0] != "le"]
    return others, float(dict(labels).get("le", "inf")), name
