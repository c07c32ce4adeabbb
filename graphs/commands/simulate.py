"""`python -m graphs simulate`: policies under a trace, without a cluster; a table, and a plot of load, queue, replicas.

trace → simulator ⇄ each policy → misses, cost over the oracle's, recovery, turns → table and PNG
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.table import Table

from cluster.autoscaling.capacity import StageSpec, capacities, round_up
from cluster.autoscaling.latency_model import Line
from cluster.autoscaling.policy import PolicyConfig
from cluster.simulator.funnel import TICK_S, SimulatedFunnel
from cluster.simulator.reference_policies import Knative, Kubernetes, Oracle, RayfunnelPolicy
from cluster.simulator.results import Run
from cluster.simulator.simulator import Scaler, simulate
from cluster.simulator.traces import Trace, make
from deployments.errors import ConfigError
from graphs.console import output_console

Maker = Callable[[SimulatedFunnel, Trace], Scaler]

STAGES = {
    "candidates": (Line(0.004, 0.001), 16),
    "scoring": (Line(0.006, 0.005), 10),
    "ranking": (Line(0.001, 0.0002), 32),
}
"""s(b) and the largest batch of each simulated stage. Two full batches of every stage fit into 200 ms."""

POLICIES: dict[str, Maker] = {
    "ours": lambda funnel, trace: RayfunnelPolicy(funnel.specs, PolicyConfig(slo_s=funnel.slo_s)),
    "knative": lambda funnel, trace: Knative(funnel.specs),
    "kubernetes": lambda funnel, trace: Kubernetes(funnel.specs),
    "oracle": lambda funnel, trace: Oracle(trace, funnel),
}


def example_funnel(slo_s: float = 0.2, startup_s: float = 5.0, most: int = 200) -> SimulatedFunnel:
    """The simulated funnel with at most `most` replicas per stage. The stages' times are proportional to `slo_s`."""
    scale = slo_s / 0.2
    lines = {name: Line(line.a * scale, line.c * scale) for name, (line, _) in STAGES.items()}
    specs = {
        name: StageSpec(1, most, max_batch=batch, prior=lines[name], startup_s=startup_s)
        for name, (_, batch) in STAGES.items()
    }
    return SimulatedFunnel(specs, lines, slo_s=slo_s, startup_s=startup_s)


def base_replicas(funnel: SimulatedFunnel, rate: float, utilisation: float = 0.7) -> dict[str, int]:
    """Replicas for `rate`, with which every policy starts."""
    capacity = capacities(funnel.specs, funnel.lines, funnel.slo_s)
    return {
        name: spec.bounded(round_up(rate / (utilisation * capacity[name].rate))) for name, spec in funnel.specs.items()
    }


def maker(name: str) -> Maker:
    """A policy by name, or by import path (`module:attribute`, called with the funnel and the trace).

    Raises:
        ConfigError: there is no policy of that name.
    """
    if name in POLICIES:
        return POLICIES[name]
    module, _, attribute = name.partition(":")
    try:
        found: Maker = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(
            f"there is no policy {name!r}; there are {', '.join(POLICIES)}, or module:attribute"
        ) from None
    return found


def report(trace: str, policies: Sequence[str], rate: float, startup_s: float, seed: int, out: str) -> None:
    """Simulates, prints the table and writes the plot. `rate`: the trace's base, requests/s.

    Raises:
        ConfigError: there is no such trace or policy, or no matplotlib for the plot.
    """
    makers = {name: maker(name) for name in policies}
    funnel = example_funnel(startup_s=startup_s, most=1000)
    try:
        load = make(trace, seed, rate, funnel.step_s)
    except ValueError as error:
        raise ConfigError(f"--trace: {error}") from None
    start = base_replicas(funnel, float(load.rates[0]))
    runs = {name: simulate(load, make_(funnel, load), funnel, seed, start) for name, make_ in makers.items()}
    least = runs.get("oracle") or simulate(load, Oracle(load, funnel), funnel, seed, start)
    output_console().print(_table(load, runs, least))
    if out:
        _plot(load, runs, out)


def _table(load: Trace, runs: Mapping[str, Run], oracle: Run) -> Table:
    table = Table(title=f"{load.name}: {load.counts.sum():,} requests in {load.seconds:.0f} s")
    titles = ("policy", "missed", "shed", "p99", "replica-s", "/ oracle", "recovered", "turns/h")
    for title in titles:
        table.add_column(title, justify="left" if title == "policy" else "right")
    for name, run in runs.items():
        table.add_row(
            name,
            f"{run.miss_share:.3%}",
            f"{run.shed_share:.3%}",
            f"{run.p99_s * 1e3:.0f} ms",
            f"{run.replica_seconds:,.0f}",
            f"{run.replica_seconds / oracle.replica_seconds:.2f}",
            f"{run.recovery_s(load.onset_s):.0f} s",
            f"{run.turns_per_hour:.1f}",
        )
    return table


def _plot(load: Trace, runs: Mapping[str, Run], out: str) -> None:
    try:
        import matplotlib
    except ImportError:
        raise ConfigError("the plot needs matplotlib: install the extra `bench`, or give --out ''") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, sharex=True, figsize=(10, 8), layout="constrained")
    first: Run = next(iter(runs.values()))
    times = np.arange(len(first.arrived)) * TICK_S
    axes[0].plot(times, first.arrived / TICK_S, color="black", linewidth=0.6)
    axes[0].set(ylabel="requests/s", title=load.name)
    for name, run in runs.items():
        axes[1].plot(times, run.queue, label=name, linewidth=0.8)
        axes[2].plot(times, run.ready.sum(axis=1), label=name, linewidth=1.2)
    axes[1].set(ylabel="requests waiting", yscale="symlog")
    axes[2].set(ylabel="ready replicas, all stages", xlabel="seconds")
    axes[2].legend()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)
