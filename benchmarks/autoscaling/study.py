"""The study of autoscaling policies: `python -m benchmarks autoscaling` → a section of RESULTS.md.

Every policy runs on the same simulated funnel, bounds and signal lag. Each tunable policy gets the same number of
random configurations per scenario. All are evaluated on the first tuning seeds, the best of them on all tuning seeds:
those with the fewest misses within a cost, or the lowest cost within a share missed. The held-out seeds give the
results, in pairs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.autoscaling.limits import limits
from benchmarks.autoscaling.search import EQUAL, RATE, TUNED, Goal, Numbers
from cluster.simulator.funnel import SimulatedFunnel
from cluster.simulator.reference_policies import Oracle
from cluster.simulator.results import Run
from cluster.simulator.simulator import Scaler, simulate
from cluster.simulator.traces import Trace, make
from graphs.commands.simulate import base_replicas, example_funnel
from graphs.console import output_console
from graphs.evaluation.results_file import write_section

TUNING, HELD_OUT = tuple(range(1, 11)), tuple(range(101, 111))
ALL = TUNING + HELD_OUT
FIRST, FINALISTS = 2, 8
"""Tuning seeds on which all configurations are evaluated; configurations that are then evaluated on all."""
STATIC_STEPS = 24
NONE = 5e-4
"""No ratio is given if the baseline misses a smaller share."""


@dataclass(frozen=True)
class Scenario:
    """A load, a start-up time of replicas, an objective, and the goal of tuning."""

    title: str
    trace: str
    goal: Goal
    startup_s: float = 5.0
    slo_s: float = 0.2

    def funnel(self) -> SimulatedFunnel:
        """The funnel of this scenario."""
        return example_funnel(self.slo_s, self.startup_s)


SCENARIOS = [
    Scenario("flash x10 in 10 s, 5 s start-up", "flash10", Goal(most_cost=1.6)),
    Scenario("flash x10 in 10 s, 15 s start-up", "flash10", Goal(most_cost=1.6), 15.0),
    Scenario("gamma CV 4, 200 ms", "gamma4", Goal(most_missed=1e-4)),
    Scenario("MMPP", "mmpp", Goal(most_missed=1e-3)),
    Scenario("diurnal", "diurnal", Goal(most_missed=1e-3)),
    Scenario("gamma CV 4, 60 ms", "gamma4", Goal(most_missed=1e-3), slo_s=0.06),
    Scenario("flash x10 in 10 s, 60 s start-up", "flash10", Goal(most_cost=1.6), 60.0),
]


@dataclass(frozen=True)
class Job:
    """A run of one policy, by its name in TUNED or "oracle", with these parameters, under the trace of a seed."""

    scenario: Scenario
    name: str
    numbers: Numbers
    seed: int


@cache
def _trace(scenario: Scenario, seed: int) -> Trace:
    return make(scenario.trace, seed, RATE, scenario.funnel().step_s)


def _run(job: Job) -> Run:
    """All policies start with the same replicas."""
    funnel, trace = job.scenario.funnel(), _trace(job.scenario, job.seed)
    policy = Oracle(trace, funnel) if job.name == "oracle" else TUNED[job.name][0](funnel, job.numbers)
    return _under(job.scenario, policy, job.seed)


def _under(scenario: Scenario, policy: Scaler, seed: int) -> Run:
    funnel, trace = scenario.funnel(), _trace(scenario, seed)
    return simulate(trace, policy, funnel, seed, base_replicas(funnel, float(trace.rates[0])))


class Study:
    """One scenario. `budget`: random configurations per policy; `pool`: where the runs are computed."""

    def __init__(self, scenario: Scenario, budget: int, pool: Executor) -> None:
        self.scenario, self.budget, self._pool = scenario, budget, pool
        self._evaluated: dict[tuple[str, int, int], tuple[float, float]] = {}
        """(missed, cost) per policy, configuration and seed."""
        self._oracles = dict(zip(ALL, self.runs("oracle", {}, ALL), strict=True))

    @property
    def flash(self) -> bool:
        """Whether the load leaves its base once, and returns."""
        return self.scenario.trace.startswith("flash")

    def runs(self, name: str, numbers: Numbers, seeds: Sequence[int]) -> list[Run]:
        """A policy on each of the seeds."""
        jobs = [Job(self.scenario, name, numbers, seed) for seed in seeds]
        return list(self._pool.map(_run, jobs))

    def cost(self, run: Run, seed: int) -> float:
        """Replica-seconds over the oracle's."""
        return run.replica_seconds / self._oracles[seed].replica_seconds

    def onset_s(self, seed: int) -> float:
        """Seconds until the load begins to rise."""
        return _trace(self.scenario, seed).onset_s

    def configurations(self, name: str) -> list[Numbers]:
        """The configurations of a policy that are tried; the first is its defaults."""
        if name == "best static":
            return [{"rate": RATE * 10 ** (step / (STATIC_STEPS - 1))} for step in range(STATIC_STEPS)]
        sample, rng = TUNED[name][1], np.random.default_rng(12345)
        return [{}] + [sample(rng) for _ in range(self.budget - 1)]

    def best(self, name: str, goal: Goal) -> tuple[int, bool]:
        """(index of the best configuration on the tuning seeds, whether it is within the goal's limit there)."""
        tried = range(len(self.configurations(name)))
        means = self.evaluate(name, tried, TUNING[:FIRST])
        finalists = sorted(tried, key=lambda i: goal.rank(*means[i]))[:FINALISTS]
        means = self.evaluate(name, finalists, TUNING)
        best = min(finalists, key=lambda i: goal.rank(*means[i]))
        return best, not goal.excess(*means[best])

    def evaluate(self, name: str, which: Sequence[int], seeds: Sequence[int]) -> dict[int, tuple[float, float]]:
        """Mean (share missed, cost over the oracle's) of each configuration."""
        tried, evaluated = self.configurations(name), self._evaluated
        new = [(i, seed) for i in which for seed in seeds if (name, i, seed) not in evaluated]
        jobs = [Job(self.scenario, name, tried[i], seed) for i, seed in new]
        self._keep((name, i, seed, run) for (i, seed), run in zip(new, self._pool.map(_run, jobs), strict=True))
        means = {i: np.mean([evaluated[name, i, seed] for seed in seeds], axis=0) for i in which}
        return {i: (float(missed), float(cost)) for i, (missed, cost) in means.items()}

    def _keep(self, runs: Iterable[tuple[str, int, int, Run]]) -> None:
        """Keeps the result per policy, configuration and seed, so that no run is made twice."""
        for name, i, seed, run in runs:
            self._evaluated[name, i, seed] = run.miss_share, self.cost(run, seed)

    def held_out(self) -> tuple[dict[str, list[Run]], dict[str, Numbers]]:
        """Every policy on the held-out seeds, and the parameters that tuning chose."""
        chosen, runs = {}, {}
        for name in TUNED:
            best, _ = self.best(name, self.scenario.goal)
            chosen[name] = self.configurations(name)[best]
            runs[name] = self.runs(name, chosen[name], HELD_OUT)
            self._keep((name, best, seed, run) for seed, run in zip(HELD_OUT, runs[name], strict=True))
        runs["ours, default numbers"] = self.runs("ours", {}, HELD_OUT)
        runs["Serve, default"] = self.runs("Serve, tuned", {}, HELD_OUT)
        if self.flash:
            runs["onset floor"] = [self._floor(run, seed) for run, seed in zip(runs["ours"], HELD_OUT, strict=True)]
        runs["oracle"] = [self._oracles[seed] for seed in HELD_OUT]
        return runs, chosen

    def _floor(self, ours: Run, seed: int) -> Run:
        """An oracle that starts 1 s after the onset, with the replicas that ours had at the onset."""
        trace = _trace(self.scenario, seed)
        ready = ours.ready[int(trace.onset_s * 2)]
        base = {name: int(count) for name, count in zip(ours.stages, ready, strict=True)}
        oracle = Oracle(trace, self.scenario.funnel(), active_from_s=trace.onset_s + 1, base=base)
        return _under(self.scenario, oracle, seed)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval (Student's t)."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return mean, mean - half, mean + half


def _section(study: Study, runs: Mapping[str, list[Run]], chosen: Mapping[str, Numbers]) -> str:
    lines = [
        "| policy | missed | shed | cost / oracle's | recovered after | turns per hour | missed more than ours |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, of in runs.items():
        missed, low, high = interval([run.miss_share for run in of])
        cost = np.mean([study.cost(run, seed) for run, seed in zip(of, HELD_OUT, strict=True)])
        gain = interval([a.miss_share - b.miss_share for a, b in zip(of, runs["ours"], strict=True)])
        recovery = [run.recovery_s(study.onset_s(seed)) for run, seed in zip(of, HELD_OUT, strict=True)]
        lines.append(
            f"| {name} | {missed:.3%} ± {(high - low) / 2:.3%} | {np.mean([run.shed_share for run in of]):.2%} "
            f"| {cost:.2f} | {f'{np.mean(recovery):.0f} s' if study.flash else '-'} "
            f"| {np.mean([run.turns_per_hour for run in of]):.1f} "
            f"| {'-' if name == 'ours' else f'{gain[0]:.3%} [{gain[1]:.3%}, {gain[2]:.3%}]'} |"
        )
    ours = float(np.mean([run.miss_share for run in runs["ours"]]))
    ratios = [
        f"{ours / missed:.2f} x {name}"
        for name in runs
        if name != "ours" and (missed := float(np.mean([run.miss_share for run in runs[name]]))) >= NONE
    ]
    numbers = "; ".join(f"{name}: {_shown(value)}" for name, value in chosen.items())
    return "\n".join([*lines, "", f"Misses of ours: {', '.join(ratios) or 'no ratio'}.", "", f"Chosen: {numbers}.", ""])


def _equal(study: Study) -> str:
    def cell(name: str, goal: Goal) -> str:
        best, within = study.best(name, goal)
        if not within:
            return "none"
        missed, cost = study.evaluate(name, [best], HELD_OUT)[best]
        return f"{missed:.3%} at {cost:.2f}"

    return "\n".join(
        [
            "Cost at equal misses, and misses at equal cost: of the same configurations those that the tuning seeds "
            "choose for other goals, on the held-out seeds; none: none kept within the limit on the tuning seeds.",
            "",
            f"| policy | {' | '.join(map(str, EQUAL))} |",
            "|---|" + "---:|" * len(EQUAL),
            *(f"| {name} | {' | '.join(cell(name, goal) for goal in EQUAL)} |" for name in TUNED),
            "",
        ]
    )


def _shown(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {float(value):.3g}" for key, value in numbers.items()) or "defaults"


def _scenario(study: Study, head: str) -> str:
    """The section of one scenario. `head`: the text that all sections share."""
    scenario = study.scenario
    runs, chosen = study.held_out()
    table = f"{_section(study, runs, chosen)}\n{_equal(study)}"
    title = f"## Autoscaling, simulated: {scenario.title}\n\n"
    return f"{title}{head}Tuned for {scenario.goal}. ± and [ ]: 95 % intervals, in pairs by seed.\n\n{table}"


def autoscaling(out: str, budget: int, only: str, command: str) -> None:
    """Runs the study and writes its section."""
    console = output_console(stderr=True)
    head = (
        f"`{command}`. {budget} random configurations per policy on {FIRST} tuning seeds (best static: "
        f"{STATIC_STEPS} steps), the best {FINALISTS} on {len(TUNING)}; {len(HELD_OUT)} held-out seeds, base "
        f"{RATE:.0f} requests/s, three stages. Missed: not answered within the SLO, shed included. Cost: "
        "replica-seconds, from the request for a replica to its exit. "
    )
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for scenario in SCENARIOS:
            if only and only not in scenario.title:
                continue
            began = time.perf_counter()
            write_section(out, _scenario(Study(scenario, budget, pool), head))
            console.print(f"{scenario.title}: {time.perf_counter() - began:.0f} s")
    if not only or only == "limits":
        write_section(out, limits(command))
