"""The baselines of the evaluation: popularity, ItemKNN, EASE, implicit ALS, and the user's own items, latest first.

Each is fitted on the training part, and scores all items from a user's history. Those with settings are tuned for
NDCG@10 on a validation cut of MovieLens; benchmarks/tune_baselines.py repeats the search.

Shapes: U judged users, N items, B users of a chunk, T users of the training part.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from deployments.errors import DataError
from deployments.messages import Array, Floats
from graphs.data.dataset import Interactions
from graphs.data.splits import Parts

Weighting = tuple[Literal["success", "weight", "success_weight"], float]
"""(success, w): 1 for successes, w for other events in favour; (weight, p): weight^p; (success_weight, p): weight^p for
successes, 0 for other events. Events against an item count 0."""

Scores = Callable[[slice], Floats]
"""Some of the judged users → their scores of all items [B, N]."""

MOST_BYTES = 2_500_000_000
"""A baseline that needs more memory is left out."""

TUNED: Mapping[str, Mapping[str, Any]] = {
    "popularity": {"weighting": ("success_weight", 1)},
    "recent": {},
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


class LeftOut(Exception):
    """A baseline can't be computed on these data; the text says why."""


@dataclass(frozen=True)
class BaselineData:
    """What the baselines are fitted on, and whom they answer. `users` [U], ascending."""

    parts: Parts
    n_items: int
    users: Array

    @property
    def lives_on(self) -> bool:
        """Whether the users' histories go on after the training part."""
        return self.parts.history is not self.parts.train

    def train(self, weighting: Weighting) -> sp.csr_matrix:
        """The training part [users, N]."""
        return matrix(self.parts.train, self.n_items, weighting)

    def histories(self, weighting: Weighting) -> sp.csr_matrix:
        """The histories of the judged users [U, N]."""
        return matrix(self.own, self.n_items, weighting, len(self.users))

    @property
    def repeats(self) -> bool:
        """Whether an answer may hold items of the user's own history."""
        return bool(np.isfinite(self.parts.history.seen_s_E).any())

    @property
    def own(self) -> Interactions:
        """The histories of the judged users, with positions in `users` as user."""
        history = self.parts.history
        mine = history.take(np.isin(history.user_E, self.users))
        return replace(mine, user_E=np.searchsorted(self.users, mine.user_E).astype(np.int32))


def matrix(events: Interactions, n_items: int, weighting: Weighting, n_users: int | None = None) -> sp.csr_matrix:
    """Users × items; the values of repeated events add up."""
    kind, parameter = weighting
    weight_E = np.maximum(events.weight_E, 0)
    value_E = {
        "success": np.where(events.success_E, 1.0, np.where(weight_E > 0, parameter, 0.0)),
        "weight": weight_E**parameter,
        "success_weight": np.where(events.success_E, weight_E**parameter, 0.0),
    }[kind]
    n_users = int(events.user_E.max(initial=-1)) + 1 if n_users is None else n_users
    users = sp.csr_matrix((value_E.astype(np.float32), (events.user_E, events.item_E)), (n_users, n_items))
    users.eliminate_zeros()
    return users


def popularity(data: BaselineData, weighting: Weighting) -> Scores:
    """The same scores for every user."""
    total_N = np.asarray(data.train(weighting).sum(axis=0), np.float32)
    return lambda rows: np.repeat(total_N, rows.stop - rows.start, axis=0)


def recent(data: BaselineData) -> Scores:
    """The user's own items, the latest first, then the popular ones."""
    own = data.own
    own = own.take(own.weight_E > 0)
    total_N = np.asarray(data.train(("success_weight", 1)).sum(axis=0), np.float32)
    share_N = total_N / max(float(total_N.max()), 1e-9)
    start_U = np.searchsorted(own.user_E, np.arange(len(data.users) + 1))

    def scores(rows: slice) -> Floats:
        score_BN = np.repeat(share_N, rows.stop - rows.start, axis=0)
        first, last = start_U[rows.start], start_U[rows.stop]
        # Of an item's events the last assignment stays: the latest one.
        score_BN[own.user_E[first:last] - rows.start, own.item_E[first:last]] = 2 + np.arange(last - first)
        return score_BN

    return scores


def item_knn(data: BaselineData, weighting: Weighting, neighbours: int, k1: float, b: float) -> Scores:
    """implicit's BM25-weighted item neighbours."""
    _fits(12 * neighbours * data.n_items)
    model = _implicit().nearest_neighbours.BM25Recommender(K=neighbours, K1=k1, B=b, num_threads=1)
    model.fit(data.train(weighting), show_progress=False)
    history_UN = data.histories(weighting)
    return lambda rows: (history_UN[rows] @ model.similarity).toarray()


def ease(data: BaselineData, weighting: Weighting, regularisation: float) -> Scores:
    """EASE in closed form (Steck 2019). With fewer users than items it is solved in the users' dimension (Woodbury):
    exact, and small. Repeated events count up to 1 together.
    """
    seen, history_UN = (
        m.minimum(1.0) if m.nnz and m.max() > 1 else m for m in (data.train(weighting), data.histories(weighting))
    )
    n_users, n_items = seen.shape
    woodbury = n_users < n_items
    cells = 2 * n_users * (n_items + n_users) if woodbury else 3 * n_items**2
    kind = np.float64 if 8 * cells <= MOST_BYTES // 2 else np.float32
    _fits(kind().itemsize * cells)
    if not woodbury:
        gram_NN = (seen.T @ seen).toarray().astype(kind)
        gram_NN[np.diag_indices(n_items)] += regularisation
        inverse_NN = scipy.linalg.inv(gram_NN, overwrite_a=True, check_finite=False)
        weights_NN = inverse_NN / -np.diag(inverse_NN)
        np.fill_diagonal(weights_NN, 0)
        return lambda rows: np.asarray(history_UN[rows] @ weights_NN)
    seen_TN = seen.toarray().astype(kind)
    kernel_TT = (seen @ seen.T).toarray().astype(kind)
    kernel_TT[np.diag_indices(n_users)] += regularisation
    projected_TN = scipy.linalg.solve(kernel_TT, seen_TN, assume_a="pos", overwrite_a=True, check_finite=False)
    diagonal_N = (1 - np.einsum("tn,tn->n", seen_TN, projected_TN)) / regularisation
    if not data.lives_on:
        return lambda rows: history_UN[rows].toarray() - projected_TN[data.users[rows]] / diagonal_N

    def scores(rows: slice) -> Floats:
        own_BN = history_UN[rows].toarray()
        rest_BN: Floats = (own_BN - (history_UN[rows] @ seen.T) @ projected_TN) / regularisation
        score_BN: Floats = own_BN - rest_BN / diagonal_N
        return score_BN

    return scores


def als(
    data: BaselineData, weighting: Weighting, factors: int, regularisation: float, alpha: float, iterations: int
) -> Scores:
    """implicit's alternating least squares (Hu, Koren & Volinsky 2008)."""
    seen = data.train(weighting)
    _fits(8 * factors * (seen.shape[0] + seen.shape[1]))
    model = _implicit().als.AlternatingLeastSquares(
        factors=factors,
        regularization=regularisation,
        alpha=alpha,
        iterations=iterations,
        random_state=0,
        num_threads=1,
        use_gpu=False,
    )
    model.fit(seen, show_progress=False)
    if data.lives_on:
        user_UD = model.recalculate_user(np.arange(len(data.users)), data.histories(weighting))
    else:
        user_UD = model.user_factors[data.users]
    return lambda rows: user_UD[rows] @ model.item_factors.T


def require() -> None:
    """Checks that the library of the baselines is installed.

    Raises:
        DataError: it is missing.
    """
    _implicit()


@cache
def _implicit() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import implicit.als
            import implicit.nearest_neighbours
    except ImportError:
        raise DataError("the baselines need the package implicit: pip install 'rayfunnel[demo]'") from None
    return implicit


def _fits(needed: int) -> None:
    """Raises LeftOut if a baseline needs `needed` bytes and that is too much."""
    if needed > MOST_BYTES:
        raise LeftOut(f"it needs about {needed / 1e9:.1f} GB of memory, more than {MOST_BYTES / 1e9:.1f}")


def methods(data: BaselineData) -> list[str]:
    """The baselines that make sense on `data`: `recent` where answers may repeat items."""
    return [name for name in METHODS if name != "recent" or data.repeats]


METHODS: Mapping[str, Callable[..., Scores]] = {
    "popularity": popularity,
    "recent": recent,
    "item_knn": item_knn,
    "ease": ease,
    "als": als,
}


def fit(name: str, data: BaselineData) -> Scores:
    """The tuned baseline `name`.

    Raises:
        LeftOut: it can't be computed on `data`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # implicit warns when it converts the matrix format
        return METHODS[name](data, **TUNED[name])
