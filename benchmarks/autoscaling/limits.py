"""Limits that the policy must meet by itself: `python -m benchmarks autoscaling --only limits`.

Direction changes under a steady load, how long an hour takes to simulate, and how long a decision takes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from benchmarks.autoscaling.search import RATE, make_ours
from cluster.autoscaling.capacity import StageSpec
from cluster.autoscaling.observations import Counters, Observation, Report, StageObservation
from cluster.autoscaling.policy import Policy
from cluster.simulator.simulator import simulate
from cluster.simulator.traces import Trace, make
from graphs.commands.simulate import base_replicas, example_funnel


def limits(command: str, seeds: Sequence[int] = (101, 102, 103)) -> str:
    """The section of RESULTS.md."""
    head = (
        f"## Autoscaling, simulated: limits\n\n`{command}`. Targets not met, and what the study can't show: "
        "[notes](NOTES.md).\n"
    )
    return "\n".join([head, _steady(seeds), _speed(), _decision()])


def _steady(seeds: Sequence[int]) -> str:
    """Direction changes under a constant rate."""
    funnel = example_funnel()
    turns = []
    for seed in seeds:
        trace = make("steady", seed, RATE, funnel.step_s)
        start = base_replicas(funnel, RATE)
        turns.append(simulate(trace, make_ours(funnel, {}), funnel, seed, start, warm_up_s=600).turns_per_hour)
    return (
        f"### Steady load, two hours\n\nDirection changes of the most restless stage per hour, default numbers, "
        f"{len(turns)} seeds: {', '.join(f'{turn:.1f}' for turn in turns)}.\n"
    )


def _speed() -> str:
    """How long an hour at 10,000 requests/s takes to simulate."""
    funnel = example_funnel(most=2000)
    steps = round(3600 / funnel.step_s)
    counts = np.random.default_rng(1).poisson(10_000 * funnel.step_s, steps)
    trace = Trace("constant", funnel.step_s, counts, np.full(36_000, 10_000.0))
    start = dict.fromkeys(funnel.specs, 334)
    began = time.perf_counter()
    simulate(trace, make_ours(funnel, {}), funnel, 1, start)
    return (
        f"### Speed\n\nAn hour at 10,000 requests/s with 1,002 replicas at the start: simulated in "
        f"{time.perf_counter() - began:.1f} s.\n"
    )


def _decision() -> str:
    """How long the policy takes to decide when 1,002 replicas report."""
    names, took = ("a", "b", "c"), []
    policy = Policy({name: StageSpec(1, 2000) for name in names})
    for tick in range(200):
        now, count = 1e9 + tick / 2, 50.0 * tick
        own = Counters(count, count, 0, 0, count / 100, count / 8, count)
        reports = {f"r{i}": Report(now, own) for i in range(334)}
        stages = {name: StageObservation(334, 334, reports) for name in names}
        observation = Observation(now, {"i": Report(now, Counters(100 * count, 100 * count))}, stages)
        began = time.perf_counter()
        policy.decide(observation)
        took.append(1e3 * (time.perf_counter() - began))
    return (
        f"### A decision for 1,002 replicas\n\nMedian {np.median(took):.1f} ms, p99 {np.percentile(took, 99):.1f} ms.\n"
    )
