"""The metrics of answers to the test users of a temporal split.

Shapes: U test users, N items, T places in an answer.
"""

from __future__ import annotations

import numpy as np

from deployments.messages import Array, Ints
from graphs.data.dataset import Interactions
from monitoring.drift.ranking_metrics import ndcg

DEPTH = 100
"""Length of the answers that are judged."""

COLUMNS = ("ndcg@10", "hit_rate@10", "recall@50", "recall@100", "coverage@10", "novelty@10")


class HeldOutUsers:
    """Judges answers by the items of each test user in the test set.

    NDCG: `ndcg` with |test| relevant items; hit rate = share of the users with a hit; recall = hits / |test|;
    coverage = share of the catalogue that the answers show; novelty = mean of -log2(share of users who had the item).
    """

    def __init__(self, train: Interactions, test: Interactions, n_items: int) -> None:
        self.users = np.unique(test.user_E)
        row_of_user = np.full(int(max(train.user_E.max(), test.user_E.max())) + 1, -1)
        row_of_user[self.users] = np.arange(len(self.users))
        self.wanted_UN = np.zeros((len(self.users), n_items), np.bool_)
        self.wanted_UN[row_of_user[test.user_E], test.item_E] = True
        self.first_test_U = np.full(len(self.users), np.inf)
        """Unix seconds of each user's first test event: the time of the request that is judged."""
        np.minimum.at(self.first_test_U, row_of_user[test.user_E], test.timestamp_E)
        self.seen_UN = np.zeros_like(self.wanted_UN)
        row_E = row_of_user[train.user_E]
        of_test_users = (row_E >= 0) & (train.seen_until_E > self.first_test_U[row_E])
        self.seen_UN[row_of_user[train.user_E[of_test_users]], train.item_E[of_test_users]] = True
        self.wanted_UN &= ~self.seen_UN  # no answer contains them
        had_N = np.zeros(n_items)
        pairs = np.unique(np.stack([train.user_E, train.item_E]), axis=1)
        np.add.at(had_N, pairs[1], 1)
        self._novelty_N = -np.log2((had_N + 1) / (len(np.unique(train.user_E)) + 1))

    def __call__(self, item_UT: Ints) -> dict[str, float]:
        """The metrics of answers [U, T], best first, -1 padded."""
        item_UT = np.pad(item_UT, ((0, 0), (0, max(0, DEPTH - item_UT.shape[1]))), constant_values=-1)
        real_UT = item_UT >= 0
        hit_UT = np.take_along_axis(self.wanted_UN, np.maximum(item_UT, 0), axis=1) & real_UT
        wanted_U = np.maximum(self.wanted_UN.sum(axis=1), 1)
        shown = item_UT[:, :10][real_UT[:, :10]]
        return {
            "ndcg@10": float(ndcg(hit_UT, wanted_U, cutoff=10).mean()),
            "hit_rate@10": float(hit_UT[:, :10].any(axis=1).mean()),
            "recall@50": float((hit_UT[:, :50].sum(axis=1) / wanted_U).mean()),
            "recall@100": float((hit_UT[:, :100].sum(axis=1) / wanted_U).mean()),
            "coverage@10": len(np.unique(shown)) / self.wanted_UN.shape[1],
            "novelty@10": float(self._novelty_N[shown].mean()) if len(shown) else 0.0,
        }

    def recall(self, item_UT: Ints) -> float:
        """Mean share of a user's test items that a list of any length [U, T] holds."""
        hit_UT = np.take_along_axis(self.wanted_UN, np.maximum(item_UT, 0), axis=1) & (item_UT >= 0)
        return float((hit_UT.sum(axis=1) / np.maximum(self.wanted_UN.sum(axis=1), 1)).mean())

    def top(self, score_UN: Array) -> Ints:
        """The DEPTH best unseen items [U, T] of scores [U, N]."""
        score_UN = np.where(self.seen_UN, -np.inf, score_UN)
        return np.argsort(-score_UN, axis=1, kind="stable")[:, :DEPTH].astype(np.int32)
