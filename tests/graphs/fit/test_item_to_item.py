"""The item-to-item tables."""

from __future__ import annotations

import numpy as np

from deployments.messages import Floats
from graphs.fit import item_to_item
from tests.support.interactions import interactions


def dense(table: item_to_item.Table, n_items: int) -> Floats:
    ids_NK, weights_NK = table
    full = np.zeros((n_items, n_items), np.float32)
    row, column = np.nonzero(ids_NK >= 0)
    full[row, ids_NK[row, column]] = weights_NK[row, column]
    return full


def test_the_linear_table_is_ease_on_either_side() -> None:
    rng = np.random.default_rng(2)
    pairs = sorted({(int(u), int(i)) for u, i in rng.integers(0, 9, (40, 2))})
    few_users = interactions([(u, i, 0.0) for u, i in pairs])
    table = dense(item_to_item.linear(few_users, 9), 9)
    seen = np.zeros((9, 9))
    seen[tuple(zip(*pairs, strict=True))] = 1
    inverse = np.linalg.inv(seen.T @ seen + 400 * np.eye(9))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(table, expected, atol=1e-6)

    more_items = interactions([(u % 3, i, 0.0) for u, i in pairs])
    table = dense(item_to_item.linear(more_items, 9), 9)
    seen = np.zeros((3, 9))
    seen[[u % 3 for u, _ in pairs], [i for _, i in pairs]] = 0
    np.add.at(seen, ([u % 3 for u, _ in pairs], [i for _, i in pairs]), 1)
    inverse = np.linalg.inv(seen.T @ seen + 400 * np.eye(9))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(table, expected, atol=1e-6)


def test_sequence_tables_have_a_direction() -> None:
    walks = interactions([(u, i, float(i)) for u in range(30) for i in range(u % 5, u % 5 + 6)])
    for fit in (item_to_item.sequence_ridge, item_to_item.co_occurrence):
        table = dense(fit(walks, 11), 11)
        assert table[4, 5] > table[5, 4], fit.__name__
