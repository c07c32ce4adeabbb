"""The baselines of the evaluation: popularity, ItemKNN, EASE and implicit ALS.

Each is tuned for NDCG@10 on a validation cut of MovieLens; benchmarks/tune_baselines.py repeats the search.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp

from deployments.errors import DataError
from deployments.messages import Array, Floats
from graphs.data.dataset import Interactions

Weighting = tuple[Literal["success", "weight", "success_weight"], float]
"""(success, w): 1 for successes, w for other events; (weight, p): weight^p; (success_weight, p): weight^p for
successes, 0 for other events."""

TUNED: Mapping[str, Mapping[str, Any]] = {
    "popularity": {"weighting": ("success_weight", 1)},
    "item_knn": {"weighting": ("success_weight", 3), "neighbours": 500, "k1": 0.2, "b": 0.4},
    "ease": {"weighting": ("weight", 2), "regularisation": 100.0},
    "als": {
        "weighting": ("success_weight", 5),
        "factors": 128,
        "regularisation": 10.0,
        "alpha": 2.0,
        "iterations": 15,
    },
}


def matrix(events: Interactions, n_items: int, weighting: Weighting) -> sp.csr_matrix:
    """Users × items [U, N]."""
    kind, parameter = weighting
    weight_E = np.maximum(events.weight_E, 0)
    value_E = {
        "success": np.where(events.success_E, 1.0, parameter),
        "weight": weight_E**parameter,
        "success_weight": np.where(events.success_E, weight_E**parameter, 0.0),
    }[kind]
    shape = (int(events.user_E.max()) + 1, n_items)
    users = sp.csr_matrix((value_E.astype(np.float32), (events.user_E, events.item_E)), shape)
    users.eliminate_zeros()
    return users


def popularity(events: Interactions, n_items: int, users: Array, weighting: Weighting) -> Floats:
    """The same scores for every user [users, N]."""
    total_N = np.asarray(matrix(events, n_items, weighting).sum(axis=0), np.float32)
    return np.repeat(total_N, len(users), axis=0)


def item_knn(
    events: Interactions, n_items: int, users: Array, weighting: Weighting, neighbours: int, k1: float, b: float
) -> Floats:
    """implicit's BM25-weighted item neighbours."""
    model = _implicit().nearest_neighbours.BM25Recommender(K=neighbours, K1=k1, B=b, num_threads=1)
    seen = matrix(events, n_items, weighting)
    model.fit(seen, show_progress=False)
    scores: Floats = (seen @ model.similarity).toarray()[users]
    return scores


def ease(events: Interactions, n_items: int, users: Array, weighting: Weighting, regularisation: float) -> Floats:
    """EASE in closed form (Steck 2019), solved in the users' dimension (Woodbury): exact, and small with few users."""
    seen_UN = matrix(events, n_items, weighting).toarray().astype(np.float64)
    kernel_UU = seen_UN @ seen_UN.T + regularisation * np.eye(len(seen_UN))
    projected_UN = np.linalg.solve(kernel_UU, seen_UN)
    diagonal_N = (1 - (seen_UN * projected_UN).sum(axis=0)) / regularisation
    scores: Floats = (seen_UN - projected_UN / diagonal_N)[users]
    return scores


def als(
    events: Interactions,
    n_items: int,
    users: Array,
    weighting: Weighting,
    factors: int,
    regularisation: float,
    alpha: float,
    iterations: int,
) -> Floats:
    """implicit's alternating least squares (Hu, Koren & Volinsky 2008)."""
    model = _implicit().als.AlternatingLeastSquares(
        factors=factors,
        regularization=regularisation,
        alpha=alpha,
        iterations=iterations,
        random_state=0,
        num_threads=1,
        use_gpu=False,
    )
    model.fit(matrix(events, n_items, weighting), show_progress=False)
    scores: Floats = model.user_factors[users] @ model.item_factors.T
    return scores


def require() -> None:
    """Checks that the library of the baselines is installed.

    Raises:
        DataError: it is missing.
    """
    _implicit()


def _implicit() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import implicit.als
            import implicit.nearest_neighbours
    except ImportError:
        raise DataError("the baselines need the package implicit: pip install 'rayfunnel[demo]'") from None
    return implicit


METHODS: Mapping[str, Callable[..., Floats]] = {
    "popularity": popularity,
    "item_knn": item_knn,
    "ease": ease,
    "als": als,
}


def scores(name: str, events: Interactions, n_items: int, users: Array) -> Floats:
    """Scores [users, N] of the tuned baseline `name`, fitted on `events`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # implicit warns when it converts the matrix format
        return METHODS[name](events, n_items, users, **TUNED[name])
