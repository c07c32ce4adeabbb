"""The metrics of answers to the test users of a split.

Shapes: U judged users, N items, T places in an answer, P pairs of a user and an item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from deployments.messages import Array, Bools, Floats, Ints
from graphs.data.splits import Parts
from monitoring.drift.ranking_metrics import ndcg

DEPTH = 100
"""Length of the answers that are judged."""

MOST_USERS = 10_000
"""Test users that are judged; of more, so many are drawn."""

CHUNK = 256
"""Users whose scores for all items are held at a time."""

COLUMNS = ("ndcg@10", "hit_rate@10", "recall@50", "recall@100", "coverage@10", "novelty@10")


class HeldOutUsers:
    """Judges answers by the items of each test user in the test part.

    A user is judged at the time of their first test event. Items that the user's history takes out of answers at that
    time can't be found: they are not wanted, and a user who wants nothing else is not judged.

    NDCG: `ndcg` with |wanted| relevant items; hit rate = share of the users with a hit; recall = hits / |wanted|;
    coverage = share of the catalogue that the answers show; novelty = mean of -log2(share of users who had the item).
    """

    def __init__(self, parts: Parts, n_items: int, most_users: int = MOST_USERS) -> None:
        self.n_items = n_items
        users, row_T = np.unique(parts.test.user_E, return_inverse=True)
        time_U = np.full(len(users), np.inf)
        np.minimum.at(time_U, row_T, parts.test.timestamp_E)
        history = parts.history.take(np.isin(parts.history.user_E, users))
        row_H = np.searchsorted(users, history.user_E)
        seen_H = history.seen_until_E > time_U[row_H]
        seen_P = np.unique(row_H[seen_H].astype(np.int64) * n_items + history.item_E[seen_H])
        wanted_P = np.unique(row_T.astype(np.int64) * n_items + parts.test.item_E)
        findable_P = wanted_P[~_contains(seen_P, wanted_P)]
        self.answerable = len(findable_P) / max(1, len(wanted_P))
        """Share of the test users' items that an answer may name at all."""
        judged = np.unique(findable_P // n_items)
        self.nothing_left = len(users) - len(judged)
        """Test users that are not judged: their history takes all their items out of answers."""
        self.drawn_from = len(judged)
        """Users that could be judged."""
        if len(judged) > most_users:
            judged = np.sort(np.random.default_rng(1).permutation(judged)[:most_users])
        self.users = users[judged]
        self.time_U = time_U[judged]
        """Unix seconds of the request that is judged."""
        self.events = int(np.isin(parts.test.user_E, self.users).sum())
        """Test events of the judged users."""
        self._wanted_P, self._seen_P = _rows(findable_P, judged, n_items), _rows(seen_P, judged, n_items)
        self.wanted_U = np.bincount(self._wanted_P // n_items, minlength=len(judged))
        """Items that each user wants, and may be answered."""
        had_P = np.unique(parts.train.user_E.astype(np.int64) * n_items + parts.train.item_E)
        had_N = np.bincount(had_P % n_items, minlength=n_items)
        self._novelty_N = -np.log2((had_N + 1) / (len(np.unique(parts.train.user_E)) + 1))

    def __len__(self) -> int:
        return len(self.users)

    def __call__(self, item_UT: Ints) -> dict[str, float]:
        """The metrics of answers [U, T], best first, -1 padded."""
        item_UT = np.pad(item_UT, ((0, 0), (0, max(0, DEPTH - item_UT.shape[1]))), constant_values=-1)
        hit_UT, wanted_U = self._hits(item_UT), self.wanted_U
        shown = item_UT[:, :10][item_UT[:, :10] >= 0]
        return {
            "ndcg@10": float(ndcg(hit_UT, wanted_U, cutoff=10).mean()),
            "hit_rate@10": float(hit_UT[:, :10].any(axis=1).mean()),
            "recall@50": float((hit_UT[:, :50].sum(axis=1) / wanted_U).mean()),
            "recall@100": float((hit_UT[:, :100].sum(axis=1) / wanted_U).mean()),
            "coverage@10": len(np.unique(shown)) / self.n_items,
            "novelty@10": float(self._novelty_N[shown].mean()) if len(shown) else 0.0,
        }

    def recall(self, item_UT: Ints) -> float:
        """Mean share of a user's items that a list of any length [U, T] holds."""
        return float((self._hits(item_UT).sum(axis=1) / self.wanted_U).mean())

    def ceiling(self, item_UT: Ints) -> float:
        """NDCG@10 of the lists [U, T] in the ideal order: no order of them is better."""
        hits_U = self._hits(item_UT).sum(axis=1)
        return float(ndcg(np.arange(10) < hits_U[:, None], self.wanted_U, cutoff=10).mean())

    def top(self, score: Callable[[slice], Floats]) -> Ints:
        """The DEPTH best items [U, T] that may be answered. `score`: some users → their scores of all items."""
        return np.concatenate([self._top(score(rows), rows) for rows in self.chunks()])

    def chunks(self) -> Iterator[slice]:
        """All users, CHUNK at a time."""
        return (slice(start, min(start + CHUNK, len(self))) for start in range(0, len(self), CHUNK))

    def _top(self, score_BN: Floats, rows: slice) -> Ints:
        first, last = np.searchsorted(self._seen_P, np.array([rows.start, rows.stop]) * self.n_items)
        seen_P = self._seen_P[first:last]
        score_BN = score_BN.copy()
        score_BN[seen_P // self.n_items - rows.start, seen_P % self.n_items] = -np.inf
        return np.argsort(-score_BN, axis=1, kind="stable")[:, :DEPTH].astype(np.int32)

    def _hits(self, item_UT: Ints) -> Bools:
        pair_UT = np.arange(len(self))[:, None] * self.n_items + item_UT
        hits: Bools = _contains(self._wanted_P, pair_UT) & (item_UT >= 0)
        return hits


def _contains(sorted_P: Array, pair: Array) -> Bools:
    """Whether each of `pair` is in `sorted_P`."""
    if not len(sorted_P):
        return np.zeros(pair.shape, np.bool_)
    found: Bools = sorted_P[np.minimum(np.searchsorted(sorted_P, pair), len(sorted_P) - 1)] == pair
    return found


def _rows(pair_P: Array, kept: Array, n_items: int) -> Array:
    """The pairs of the `kept` rows (ascending), renumbered."""
    row_P = pair_P // n_items
    mine_P = np.isin(row_P, kept)
    renumbered: Array = np.searchsorted(kept, row_P[mine_P]) * n_items + pair_P[mine_P] % n_items
    return renumbered
