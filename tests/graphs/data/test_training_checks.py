"""What is refused before training starts, and what the data change in the configuration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs.config import RecommenderArgs
from graphs.data.dataset import Dataset, from_tables
from graphs.data.findings import DataFaults
from graphs.data.repeats import judged_users, taken_out
from graphs.data.training_checks import check_trainable
from tests.support.toy_data import events, items


def args(n_candidates: int = 20, **ranking: Any) -> RecommenderArgs:
    """A configuration with these keys of the ranking stage."""
    stages = {"candidates": {"config": {"n_candidates": n_candidates}}, "ranking": {"config": ranking}}
    return RecommenderArgs.model_validate({"artifact": "", "stages": stages})


def dataset(frame: pd.DataFrame | None = None, catalogue: pd.DataFrame | None = None, **kwargs: Any) -> Dataset:
    """The toy data, or these."""
    tables = [pa.Table.from_pandas(each, preserve_index=False) for each in (
        events() if frame is None else frame, items() if catalogue is None else catalogue)]  # fmt: skip
    return from_tables("toy", tables[0], tables[1], **kwargs)


def faults(data: Dataset, config: RecommenderArgs) -> list[str]:
    """What is refused."""
    with pytest.raises(DataFaults) as refused:
        check_trainable(data, config)
    return refused.value.faults


def test_a_category_that_no_item_has_is_no_reason_to_refuse_while_its_cap_is_0() -> None:
    assert check_trainable(dataset(), args(category="genres", category_cap=0)) == []


def test_a_configuration_that_does_not_fit_the_features_is_refused_as_a_whole() -> None:
    rules = [
        {"name": "cheap", "action": "boost", "amount": 1, "where": {"prize": {"lte": 3}}},
        {"name": "fine", "action": "boost", "amount": 1, "where": {"color": "red", "price": {"gte": 1}}},
        {"name": "purple", "action": "boost", "amount": 1, "where": {"color": "purple"}},
        {"name": "gone", "action": "bury", "amount": 1, "item_ids": ["none"]},
    ]
    found = faults(dataset(), args(category="genre", category_cap=2, rules=rules))
    assert found == [
        "stages.ranking.config: ranking.category: 'genre' is none of the catalogue's: color; mend it, or set "
        "category_cap to 0",
        "stages.ranking.config: ranking.rules[0] (cheap): where: filters.prize: no such attribute; the catalogue has: "
        "color, price",
        "stages.ranking.config: ranking.rules[2] (purple): where: filters.color: no item has the value 'purple'; "
        "known: 'blue', 'green', 'red'",
        "stages.ranking.config: ranking.rules[3] (gone): item_ids: none is in the catalogue, e.g. 'none'; mend or "
        "remove it",
    ]


def test_more_candidates_than_items_are_lowered_and_said() -> None:
    assert check_trainable(dataset(), args(300)) == [
        "stages.candidates.config.n_candidates is 300, but there are 60 items: each request gets 60 candidates at most"
    ]


def test_too_few_items_and_successes_are_said_with_counts_and_remedy() -> None:
    few = events().head(24).assign(event_type=["purchase"] + ["view"] * 23, item_id="i1")
    of_items, of_successes = faults(from_tables("few", pa.Table.from_pandas(few)), args())
    assert of_items == "items: 1 item; it takes 10"
    assert "0 of 2 users have 2 or more successes" in of_successes
    assert "1 successes among 24 events: purchase 1 (1 successes), view 23 (0 successes)" in of_successes
    assert "let a frequent type be a success by events.types of the configuration" in of_successes


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 20), st.sampled_from([0.0, 3.0, np.inf])),
        min_size=1,
        max_size=40,
    )
)
def test_an_item_is_taken_out_while_an_earlier_event_says_so(rows: list[tuple[int, int, int, float]]) -> None:
    rows.sort(key=lambda row: (row[0], row[2], row[1]))
    user_E, item_E, time_E, seen_E = (np.array(column) for column in zip(*rows, strict=True))
    until_E = np.where(seen_E > 0, time_E + seen_E, -np.inf)
    expected = [
        any(user_E[k] == user_E[e] and item_E[k] == item_E[e] and until_E[k] > time_E[e] for k in range(e))
        for e in range(len(rows))
    ]
    assert taken_out(user_E, item_E, time_E.astype(float), until_E).tolist() == expected


def test_users_are_judged_by_their_last_successes() -> None:
    user_E = np.repeat([0, 1, 2], [10, 10, 5])
    target_E = np.ones(25, np.bool_)
    out_E = np.zeros(25, np.bool_)
    out_E[8:10] = True  # the last fifth of user 0
    assert judged_users(user_E, target_E, out_E) == (2, 3, 2)
    assert judged_users(user_E, ~target_E, out_E) == (2, 0, 0)
