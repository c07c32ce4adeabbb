"""Repeats the search behind TUNED in graphs/evaluation/baselines.py: NDCG@10 on a validation cut inside MovieLens'
training part.

python benchmarks/tune_baselines.py            # about 5 minutes on one core
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from graphs.data.dataset import MOVIELENS, Interactions, load_dataset
from graphs.data.splits import Split
from graphs.evaluation.baselines import METHODS, TUNED, BaselineData, methods
from graphs.evaluation.ranking_quality import HeldOutUsers

WEIGHTINGS: list[tuple[str, float]] = [
    ("success", 0.0),
    ("success", 0.5),
    ("success", 1.0),
    ("weight", 1),
    ("weight", 2),
    ("success_weight", 1),
    ("success_weight", 3),
    ("success_weight", 5),
]


def candidates(rng: np.random.Generator) -> dict[str, Iterator[dict[str, Any]]]:
    """The settings to try per method: a grid where it is small, else a random search."""

    def draw(trials: int, **choices: list[Any]) -> Iterator[dict[str, Any]]:
        for _ in range(trials):
            yield {name: values[rng.integers(len(values))] for name, values in choices.items()}

    regularisations = [20.0, 50.0, 100.0, 150.0, 200.0, 300.0, 400.0, 500.0, 700.0, 1000.0, 1500.0, 2500.0]
    return {
        "popularity": ({"weighting": w} for w in WEIGHTINGS),
        "ease": ({"weighting": w, "regularisation": r} for w, r in itertools.product(WEIGHTINGS, regularisations)),
        "item_knn": draw(
            120,
            weighting=WEIGHTINGS,
            neighbours=[10, 20, 50, 100, 200, 500, 1000],
            k1=[0.2, 0.5, 1.0, 1.2, 2.0, 5.0, 20.0, 100.0],
            b=[0.0, 0.1, 0.2, 0.4, 0.6, 0.75, 0.9],
        ),
        "als": draw(
            150,
            weighting=WEIGHTINGS,
            factors=[16, 32, 48, 64, 96, 128, 160],
            regularisation=[0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 100.0],
            alpha=[1.0, 2.0, 3.0, 5.0, 10.0],
            iterations=[10, 15, 20, 30],
        ),
    }


class Tuned(NamedTuple):
    """The best setting of a method, its NDCG@10 on the validation cut, that of TUNED, and how many were tried."""

    setting: dict[str, Any]
    validation: float
    recorded: float
    tried: int


def tune(train: Interactions, n_items: int, settings: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, Tuned]:
    """Per method the best of TUNED and of `settings`, by NDCG@10 on the last part of each user's `train`."""
    parts = Split.choose("user", train)(train)
    inner = HeldOutUsers(parts, n_items)
    data = BaselineData(parts, n_items, inner.users)

    def ndcg(method: str, setting: Mapping[str, Any]) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # implicit warns when it converts the matrix format
            return inner(inner.top(METHODS[method](data, **setting)))["ndcg@10"]

    found = {}
    for method in methods(data):
        tried = [dict(setting) for setting in [TUNED[method], *settings.get(method, ())]]
        values = [ndcg(method, setting) for setting in tried]
        best = int(np.argmax(values))
        found[method] = Tuned(tried[best], values[best], values[0], len(tried))
    return found


def main() -> None:
    """Prints the best setting of each method beside the recorded one."""
    dataset = load_dataset(MOVIELENS)
    n_items = len(dataset.items)
    parts = Split()(dataset.interactions)
    outer = HeldOutUsers(parts, n_items)
    judged = BaselineData(parts, n_items, outer.users)
    warnings.simplefilter("ignore")
    for method, best in tune(parts.train, n_items, candidates(np.random.default_rng(0))).items():
        final = outer(outer.top(METHODS[method](judged, **best.setting)))["ndcg@10"]
        print(
            f"{method}, {best.tried} settings: validation {best.validation:.4f} (recorded {best.recorded:.4f}), "
            f"test {final:.4f}"
        )
        print(f"    {best.setting}")


if __name__ == "__main__":
    main()
