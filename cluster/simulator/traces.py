"""Arrival traces for the simulator: seeded, as counts per time step.

`NAMES` maps a name to the function that makes the rate over time. Arrivals are Poisson given the rate, or a gamma
renewal process (`gamma1`, `gamma2`, `gamma4`: the coefficient of variation of the gaps). A path to a CSV file with one
count per second in its last column is a trace too.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RATE_STEP_S = 0.1


@dataclass(frozen=True)
class Trace:
    """`counts`: arrivals per step of `step_s`; `rates`: expected requests/s, per RATE_STEP_S; `onset_s`: when the load
    first leaves its base, 0 if it has none."""

    name: str
    step_s: float
    counts: Ints
    rates: Floats
    onset_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Length of the trace."""
        return len(self.counts) * self.step_s


def _grid(seconds: float) -> Floats:
    times: Floats = np.arange(round(seconds / RATE_STEP_S), dtype=np.float64) * RATE_STEP_S
    return times


def _ramp(times: Floats, onset: float, rise_s: float, high_s: float, fall_s: float) -> Floats:
    """0 → 1 in `rise_s`, 1 for `high_s`, and back in `fall_s`."""
    points = np.cumsum([onset, rise_s, high_s, fall_s])
    shape: Floats = np.interp(times, points, [0.0, 1.0, 1.0, 0.0]).astype(np.float64)
    return shape


def _flash(factor: float) -> Callable[[np.random.Generator, float], tuple[Floats, float]]:
    def make(rng: np.random.Generator, base: float) -> tuple[Floats, float]:
        onset = 120 + rng.uniform(0, 30)
        return base * (1 + (factor - 1) * _ramp(_grid(900), onset, 10, 240, 60)), onset

    return make


def _step(rng: np.random.Generator, base: float) -> tuple[Floats, float]:
    onset = 120 + rng.uniform(0, 30)
    return base * (1 + 3 * _ramp(_grid(900), onset, 0.1, 240, 0.1)), onset


def _diurnal(rng: np.random.Generator, base: float) -> tuple[Floats, float]:
    """A day in half an hour, from 1 to 4 times the base."""
    phase = rng.uniform(0, 2 * np.pi)
    return base * (2.5 + 1.5 * np.sin(2 * np.pi * _grid(1800) / 1800 + phase)), 0.0


def _steady(rng: np.random.Generator, base: float) -> tuple[Floats, float]:
    return np.full(72_000, base * rng.uniform(0.9, 1.1)), 0.0


def _mmpp(rng: np.random.Generator, base: float) -> tuple[Floats, float]:
    """Two states, one and three times the base, which last 60 and 20 s on average."""
    rates, states = np.empty(0), [(base, 60.0), (3 * base, 20.0)]
    state = int(rng.integers(2))
    while len(rates) < 18_000:
        rate, mean_s = states[state]
        rates = np.concatenate([rates, np.full(1 + int(rng.exponential(mean_s) / RATE_STEP_S), rate)])
        state = 1 - state
    return rates[:18_000], 0.0


def _on_off(rng: np.random.Generator, base: float) -> tuple[Floats, float]:
    """Two minutes of traffic, eight idle ones."""
    times = _grid(3600) + rng.uniform(0, 600)
    return np.where(times % 600 < 120, base, 0.0), 0.0


def _flat(seconds: float) -> Callable[[np.random.Generator, float], tuple[Floats, float]]:
    return lambda rng, base: (np.full(round(seconds / RATE_STEP_S), 2 * base), 0.0)


NAMES: dict[str, Callable[[np.random.Generator, float], tuple[Floats, float]]] = {
    "steady": _steady,
    "step": _step,
    "diurnal": _diurnal,
    "gamma1": _flat(1200),
    "gamma2": _flat(1200),
    "gamma4": _flat(1200),
    "mmpp": _mmpp,
    "flash5": _flash(5),
    "flash10": _flash(10),
    "onoff": _on_off,
}


def make(name: str, seed: int, base: float, step_s: float) -> Trace:
    """The trace `name`, or the CSV file of that path. `base`: requests/s.

    Raises:
        ValueError: there is no such trace or file, or the file has something else than counts.
    """
    rng = np.random.default_rng(seed)
    if name in NAMES:
        rates, onset = NAMES[name](rng, base)
    elif Path(name).is_file():
        rates, onset = np.repeat(_read(name), round(1 / RATE_STEP_S)), 0.0
    else:
        raise ValueError(f"there is no trace or file {name!r}; there are {', '.join(NAMES)}")
    steps = round(len(rates) * RATE_STEP_S / step_s)
    if name.startswith("gamma"):
        counts = _renewal(float(rates[0]), float(name[5:]), steps, step_s, rng)
    else:
        index = np.minimum((np.arange(steps) * step_s / RATE_STEP_S).astype(np.int64), len(rates) - 1)
        counts = rng.poisson(rates[index] * step_s).astype(np.int64)
    return Trace(name, step_s, counts, rates, onset)


def _renewal(rate: float, cv: float, steps: int, step_s: float, rng: np.random.Generator) -> Ints:
    """Counts of a renewal process whose gaps are gamma distributed with this coefficient of variation."""
    shape, seconds = cv**-2, steps * step_s
    gaps = rng.gamma(shape, 1 / (rate * shape), int(rate * seconds * 1.2) + 100)
    times = np.cumsum(gaps)
    return np.bincount((times[times < seconds] / step_s).astype(np.int64), minlength=steps)[:steps].astype(np.int64)


def _read(path: str) -> Floats:
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.reader(file) if row]
    try:
        counts = np.array(
            [float(row[-1]) for row in rows[1:]]
            if rows and not _number(rows[0][-1])
            else [float(row[-1]) for row in rows]
        )
    except ValueError as error:
        raise ValueError(f"{path}: the last column must hold counts per second: {error}") from None
    if not len(counts) or not np.isfinite(counts).all() or counts.min() < 0:
        raise ValueError(f"{path}: the last column must hold counts per second, at least one, none negative")
    return counts


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
