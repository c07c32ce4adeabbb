"""The study of autoscaling policies: `python -m benchmarks autoscaling` → a section of RESULTS.md.

Every policy runs on the same simulated funnel, bounds and signal lag. Each tunable one gets the same number of random
configurations per scenario, all judged on the first of the tuning seeds and the best of them on all: the fewest misses
among those within the cost limit, or the cheapest within the limit of misses. The held-out seeds decide, in pairs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from benchmarks.limits import limits
from benchmarks.search import RATE, TUNED, Numbers
from cluster.baselines import Oracle
from cluster.quality import Quality
from cluster.simulator import Plant, Run, Scaler, simulate
from cluster.traces import Trace, make
from graphs.results import write_section
from graphs.simulation import base_replicas, funnel

TUNING, HELD_OUT = tuple(range(1, 11)), tuple(range(101, 111))
ALL = TUNING + HELD_OUT
FIRST, FINALISTS = 2, 8
"""So many of the tuning seeds judge all configurations, and so many of these go on to the others."""
STATIC_STEPS = 24
NONE = 5e-4
"""No ratio is stated where the baseline misses less."""
WITH_QUALITY = ("ours", "Serve, tuned", "Knative, tuned", "Kubernetes, tuned")


@dataclass(frozen=True)
class Scenario:
    """`most_cost`: of tuned configurations, over the oracle's; among those the fewest misses win. 0: the cheapest with
    at most `most_missed` wins."""

    title: str
    trace: str
    startup_s: float = 5.0
    slo_s: float = 0.2
    most_cost: float = 0.0
    most_missed: float = 1e-3

    def plant(self) -> Plant:
        """The funnel of this scenario."""
        return funnel(self.slo_s, self.startup_s)


SCENARIOS = [
    Scenario("flash x10 in 10 s, 5 s start-up", "flash10", most_cost=1.6),
    Scenario("flash x10 in 10 s, 15 s start-up", "flash10", 15.0, most_cost=1.6),
    Scenario("gamma CV 4, 200 ms", "gamma4", most_missed=1e-4),
    Scenario("MMPP", "mmpp", most_missed=1e-3),
    Scenario("diurnal", "diurnal", most_missed=1e-3),
    Scenario("gamma CV 4, 60 ms", "gamma4", slo_s=0.06, most_missed=1e-3),
    Scenario("flash x10 in 10 s, 60 s start-up", "flash10", 60.0, most_cost=1.6),
]


@dataclass(frozen=True)
class Job:
    """A run of one policy, by its name in TUNED or "oracle", with some numbers under the trace of a seed."""

    scenario: Scenario
    name: str
    numbers: Numbers
    seed: int
    quality: Quality | None = None


@cache
def _trace(scenario: Scenario, seed: int) -> Trace:
    return make(scenario.trace, seed, RATE, scenario.plant().step_s)


def _run(job: Job) -> Run:
    """All policies start with the same replicas."""
    plant, trace = job.scenario.plant(), _trace(job.scenario, job.seed)
    policy = Oracle(trace, plant) if job.name == "oracle" else TUNED[job.name][0](plant, job.numbers)
    return _under(job.scenario, policy, job.seed, job.quality)


def _under(scenario: Scenario, policy: Scaler, seed: int, quality: Quality | None = None) -> Run:
    plant, trace = replace(scenario.plant(), quality=quality), _trace(scenario, seed)
    return simulate(trace, policy, plant, seed, base_replicas(plant, float(trace.rates[0])))


class Study:
    """One scenario. `budget`: random configurations per policy; `pool`: where the runs are computed."""

    def __init__(self, scenario: Scenario, budget: int, pool: Executor) -> None:
        self.scenario, self.budget, self._pool = scenario, budget, pool
        self._tried: dict[str, list[tuple[float, float, Numbers]]] = {}
        """Per policy (missed, cost, numbers) of all configurations on the first tuning seeds."""
        self._oracles = dict(zip(ALL, self.runs("oracle", {}, ALL), strict=True))

    @property
    def flash(self) -> bool:
        """Whether the load leaves its base once, and comes back."""
        return self.scenario.trace.startswith("flash")

    def runs(self, name: str, numbers: Numbers, seeds: Sequence[int], quality: Quality | None = None) -> list[Run]:
        """A policy on each of the seeds."""
        jobs = [Job(self.scenario, name, numbers, seed, quality) for seed in seeds]
        return list(self._pool.map(_run, jobs))

    def cost(self, run: Run, seed: int) -> float:
        """Replica-seconds over the oracle's."""
        return run.replica_seconds / self._oracles[seed].replica_seconds

    def onset_s(self, seed: int) -> float:
        """When the load begins to rise."""
        return _trace(self.scenario, seed).onset_s

    def tune(self, name: str) -> Numbers:
        """The best of `budget` random configurations on the tuning seeds; the policy's defaults are one of them."""
        sample, chance = TUNED[name][1], np.random.default_rng(12345)
        candidates: list[Numbers] = [{}] + [sample(chance) for _ in range(self.budget - 1)]
        if name == "best static":
            candidates = [{"rate": RATE * 10 ** (step / (STATIC_STEPS - 1))} for step in range(STATIC_STEPS)]
        tried = self._tried[name] = self._judged(name, candidates, TUNING[:FIRST])
        finalists = [numbers for *_, numbers in sorted(tried, key=self._rank)[:FINALISTS]]
        return min(self._judged(name, finalists, TUNING), key=self._rank)[2]

    def _judged(
        self, name: str, candidates: Sequence[Numbers], seeds: Sequence[int]
    ) -> list[tuple[float, float, Numbers]]:
        """(missed, cost, numbers) of each."""
        jobs = [Job(self.scenario, name, numbers, seed) for numbers in candidates for seed in seeds]
        runs = iter(self._pool.map(_run, jobs))
        return [(*self.means([next(runs) for _ in seeds], seeds), numbers) for numbers in candidates]

    def means(self, runs: Sequence[Run], seeds: Sequence[int]) -> tuple[float, float]:
        """(share missed, cost over the oracle's)."""
        costs = [self.cost(run, seed) for run, seed in zip(runs, seeds, strict=True)]
        return float(np.mean([run.miss_share for run in runs])), float(np.mean(costs))

    def _rank(self, judged: tuple[float, float, Numbers]) -> tuple[float, float]:
        """The lower, the better."""
        missed, cost, _ = judged
        if self.scenario.most_cost:
            return max(0.0, cost - self.scenario.most_cost), missed
        return max(0.0, missed - self.scenario.most_missed), cost

    def cheapest(self, name: str, most_missed: float) -> tuple[float, float] | None:
        """(missed, cost) on the held-out seeds of the configuration that was the cheapest of those that missed at most
        so many on the first tuning seeds; None if none did."""
        found = [(cost, i) for i, (missed, cost, _) in enumerate(self._tried[name]) if missed <= most_missed]
        if not found:
            return None
        return self.means(self.runs(name, self._tried[name][min(found)[1]][2], HELD_OUT), HELD_OUT)

    def held_out(self) -> tuple[dict[str, list[Run]], dict[str, Numbers]]:
        """Every policy on the held-out seeds, and the numbers that tuning chose."""
        chosen = {name: self.tune(name) for name in TUNED}
        runs = {name: self.runs(name, numbers, HELD_OUT) for name, numbers in chosen.items()}
        runs["ours, default numbers"] = self.runs("ours", {}, HELD_OUT)
        runs["Serve, default"] = self.runs("Serve, tuned", {}, HELD_OUT)
        if self.flash:
            runs["onset floor"] = [self._floor(run, seed) for run, seed in zip(runs["ours"], HELD_OUT, strict=True)]
        runs["oracle"] = [self._oracles[seed] for seed in HELD_OUT]
        return runs, chosen

    def with_quality(self, chosen: Mapping[str, Numbers]) -> dict[str, list[Run]]:
        """The policies as tuned without it, on the held-out seeds, with the quality factor's default numbers."""
        runs = {name: self.runs(name, chosen[name], HELD_OUT, Quality()) for name in WITH_QUALITY}
        return runs | {"Serve, default": self.runs("Serve, tuned", {}, HELD_OUT, Quality())}

    def _floor(self, ours: Run, seed: int) -> Run:
        """Knows all from 1 s after the onset, with the replicas that ours had at the onset."""
        trace = _trace(self.scenario, seed)
        ready = ours.ready[int(trace.onset_s * 2)]
        base = {name: int(count) for name, count in zip(ours.stages, ready, strict=True)}
        oracle = Oracle(trace, self.scenario.plant(), knows_from_s=trace.onset_s + 1, base=base)
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


def _equal_misses(study: Study) -> str:
    lines = [
        f"Cost at equal misses: of all configurations the cheapest with at most 1 % and 0.1 % missed on the first "
        f"{FIRST} tuning seeds; what it missed and cost on the held-out ones.",
        "",
        "| policy | 1 %: missed | cost / oracle's | 0.1 %: missed | cost / oracle's |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in TUNED:
        found = [study.cheapest(name, limit) for limit in (0.01, 0.001)]
        shown = [f"{of[0]:.3%} | {of[1]:.2f}" if of else "none did | -" for of in found]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join([*lines, ""])


def _with_quality(study: Study, runs: Mapping[str, list[Run]]) -> str:
    lines = [
        "The same policies and numbers with the quality factor on. Missed: no answer in time; degraded: an answer in "
        "time for which less was computed.",
        "",
        "| policy | missed | degraded | cost / oracle's |",
        "|---|---:|---:|---:|",
    ]
    degraded = {name: float(np.mean([run.degraded_share for run in of])) for name, of in runs.items()}
    for name, of in runs.items():
        missed, given = interval([run.miss_share for run in of]), interval([run.degraded_share for run in of])
        cost = np.mean([study.cost(run, seed) for run, seed in zip(of, HELD_OUT, strict=True)])
        lines.append(
            f"| {name} | {missed[0]:.3%} ± {(missed[2] - missed[0]):.3%} "
            f"| {given[0]:.2%} ± {(given[2] - given[0]):.2%} | {cost:.2f} |"
        )
    ratios = [f"{degraded['ours'] / share:.2f} x {name}" for name, share in degraded.items() if name != "ours"]
    return "\n".join([*lines, "", f"Degraded of ours: {', '.join(ratios)}.", ""])


def _shown(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {float(value):.3g}" for key, value in numbers.items()) or "defaults"


def _scenario(study: Study, head: str) -> str:
    """The section of one scenario. `head`: what holds for all."""
    scenario = study.scenario
    goal = (
        f"the fewest misses at {scenario.most_cost} x the oracle's cost"
        if scenario.most_cost
        else f"the least cost with {scenario.most_missed:.2%} missed"
    )
    runs, chosen = study.held_out()
    table = _section(study, runs, chosen)
    if study.flash:
        table += f"\n{_equal_misses(study)}\n{_with_quality(study, study.with_quality(chosen))}"
    title = f"## Autoscaling, simulated: {scenario.title}\n\n"
    return f"{title}{head}Tuned for {goal}. ± and [ ]: 95 % intervals, in pairs by seed.\n\n{table}"


def autoscaling(out: str, budget: int, only: str, command: str) -> None:
    """Runs the study and writes its section."""
    console = Console(stderr=True)
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
