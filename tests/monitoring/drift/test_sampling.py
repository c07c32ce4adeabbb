"""The sampler: bounded, one row per user, and weights that make up for rows not drawn."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitoring.drift.sampling import Sampler, SamplingConfig, StratumAndUser, allocate

Batch = list[tuple[str, str]]


def sampler(seed: int | None = None, **config: float) -> Sampler[Batch]:
    def describe(batch: Batch) -> list[StratumAndUser | None]:
        return [row if row[1] else None for row in batch]

    return Sampler(describe, len, SamplingConfig.model_validate(config), seed)


def test_a_full_buffer_drops_and_counts_until_it_is_emptied() -> None:
    full = sampler(buffer_rows=10)
    for n in range(5):
        full.offer([("known", f"{n}-{m}") for m in range(4)])
    assert (full.seen, full.dropped) == (20, 12)
    assert sum(len(part.rows) for part in full.draw()) == 8
    assert full.draw() == []
    full.offer([("known", "u")])
    assert full.dropped == 12


def test_a_user_has_one_row_per_draw_and_rows_without_user_are_never_drawn() -> None:
    some = sampler()
    for _ in range(20):
        some.offer([("known", "busy"), ("known", "other"), ("known", "")])
    drawn = some.draw()
    assert sorted(user for part in drawn for user in part.users) == ["busy", "other"]
    assert all(part.batch[row][1] == user for part in drawn for row, user in zip(part.rows, part.users, strict=True))


def test_weights_of_a_stratum_sum_to_its_number_of_users() -> None:
    some = sampler(rows_per_draw=50)
    some.offer([("known", f"k{n}") for n in range(900)] + [("new", f"n{n}") for n in range(10)])
    drawn = some.draw()
    totals = {"k": 0.0, "n": 0.0}
    for part in drawn:
        for user, weight in zip(part.users, part.weights, strict=True):
            totals[str(user)[0]] += weight
    assert abs(totals["k"] - 900) < 1e-6
    assert abs(totals["n"] - 10) < 1e-6
    assert sum(len(part.rows) for part in drawn) <= 50


def test_a_weighted_mean_is_that_of_all_users() -> None:
    means = []
    for seed in range(200):
        some = sampler(seed, rows_per_draw=40)
        some.offer([("known", f"{n}") for n in range(300)] + [("new", f"{n}") for n in range(300, 330)])
        picks = [(int(str(u)), w) for part in some.draw() for u, w in zip(part.users, part.weights, strict=True)]
        values, weights = np.array(picks).T
        means.append(np.average(values, weights=weights))
    assert abs(np.mean(means) - np.mean(np.arange(330))) < 4 * np.std(means) / np.sqrt(len(means))


@given(st.dictionaries(st.text(min_size=1), st.integers(1, 500), min_size=1, max_size=6), st.integers(10, 300))
def test_no_stratum_gets_more_rows_than_it_has_or_than_there_are_in_all(sizes: dict[str, int], total: int) -> None:
    quotas = allocate(sizes, total)
    assert quotas.keys() == sizes.keys()
    assert all(0 < quotas[name] <= sizes[name] for name in sizes)
    assert sum(quotas.values()) <= total + len(sizes)
