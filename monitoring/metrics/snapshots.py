"""What a replica tells the hub, what the hub tells whoever scrapes, and Prometheus' text of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family

from monitoring.metrics.declarations import DECLARED, Metric

Series = tuple[str, tuple[tuple[str, str], ...]]
"""Name of a sample and its labels, in the order of their names."""

Values = dict[Series, float]

_SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
OF_SAMPLE: Mapping[str, Metric] = {
    metric.name + suffix: metric for metric in DECLARED.values() for suffix in _SUFFIXES[metric.kind]
}
"""Which metric a sample belongs to, by the sample's name."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a replica has counted since its process started (`epoch`, Unix nanoseconds), the `sequence`-th time that
    it says so. `counters`: samples that only grow, histograms' buckets among them.
    """

    replica: str
    epoch: int
    sequence: int
    deployment: str
    counters: Values
    gauges: Values


@dataclass(frozen=True, slots=True)
class Totals:
    """What is shown: samples of the whole application."""

    counters: Values
    gauges: Values


def series(metric: Metric, **labels: str) -> Series:
    """The series of a counter or gauge; ValueError if the labels are not those declared."""
    if set(labels) != set(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
    return metric.name, tuple(sorted(labels.items()))


def add(into: Values, values: Mapping[Series, float]) -> None:
    """Adds up, series by series."""
    for key, value in values.items():
        into[key] = into.get(key, 0.0) + value


class _Shown:
    """A collector of samples that are there already."""

    def __init__(self, totals: Totals) -> None:
        self._samples = {**totals.counters, **totals.gauges}

    def collect(self) -> Iterable[Family]:
        families: dict[str, Family] = {}
        for (name, labels), value in sorted(self._samples.items(), key=_order):
            metric = OF_SAMPLE.get(name)
            if metric is None:
                continue  # of another version of the code, which declared it
            if metric.name not in families:
                families[metric.name] = Family(metric.name.removesuffix("_total"), metric.help, metric.kind)
            families[metric.name].add_sample(name, dict(labels), value)
        return [families[name] for name in DECLARED if name in families]


def text(totals: Totals) -> bytes:
    """Prometheus' text exposition; buckets in their order, families in that of their declaration."""
    registry = CollectorRegistry()
    registry.register(_Shown(totals))
    return generate_latest(registry)


def _order(item: tuple[Series, float]) -> tuple[list[tuple[str, str]], float, str]:
    (name, labels), _ = item
    others = [label for label in labels if label[0] != "le"]
    return others, float(dict(labels).get("le", "inf")), name
