"""The plots in RESULTS.md, as PNG files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.load import Load

STAGES = ("profile", "candidates", "scoring", "ranking")


def latencies(curves: Mapping[str, Sequence[tuple[float, Load]]], path: Path) -> Path:
    """p50 and p99 of each server over the offered requests per second."""
    figure = _figure(7, 4)
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        rates = [rate for rate, _ in curve]
        axes.plot(rates, [found.p50_ms for _, found in curve], f"C{number}o-", label=f"{name}, p50")
        axes.plot(rates, [found.p99_ms for _, found in curve], f"C{number}s--", label=f"{name}, p99")
    axes.set(xlabel="requests/s offered", ylabel="ms", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    return _saved(figure, path)


def costs(panels: Mapping[str, Mapping[int, Mapping[str, float]]], path: Path) -> Path:
    """One panel per size that grows: ms per request of every stage, stacked, over the values of that size."""
    figure = _figure(3.2 * len(panels), 3.5)
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (size, values) in zip(row, panels.items(), strict=True):
        xs = list(values)
        axes.stackplot(xs, *([values[x][stage] for x in xs] for stage in STAGES), labels=STAGES)
        axes.set(xlabel=size, ylabel="ms per request", xscale="log")
        axes.grid(alpha=0.3)
    row[0].legend(loc="upper left")
    return _saved(figure, path)


def flash_crowd(curves: Iterable[tuple[str, Any, Any, Any]], path: Path) -> Path:
    """`curves`: per policy its name, and requests/s, requests in flight and replicas per half second."""
    figure = _figure(8, 7)
    load, queue, replicas = figure.subplots(3, 1, sharex=True)
    for number, (name, came, waiting, running) in enumerate(curves):
        seconds = [at / 2 for at in range(len(came))]
        if not number:
            load.plot(seconds, came, "k", linewidth=0.8)
        queue.plot(seconds, waiting, f"C{number}", label=name, linewidth=0.9)
        replicas.step(seconds, running[: len(seconds)], f"C{number}", label=name, where="post")
    load.set(ylabel="requests/s")
    queue.set(ylabel="requests in flight")
    replicas.set(ylabel="replicas running", xlabel="seconds")
    replicas.legend()
    return _saved(figure, path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # of the extra `bench`

    return Figure(figsize=(width, height), layout="constrained")


def _saved(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
