"""The generated shop: its data have the properties that a shop's have, and its table states what was measured."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from benchmarks.shop import quality
from benchmarks.shop.data import KINDS, write_shop
from deployments.errors import ConfigError
from graphs.data.dataset import Interactions
from tests.support.interactions import interactions

USERS, ITEMS = 800, 2000
FILES = ("interactions.parquet", "items.parquet", "users.parquet")


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_shop(tmp_path_factory.mktemp("shop") / kind, kind, USERS, ITEMS) for kind in KINDS}


def _events(folder: Path) -> pa.Table:
    return pq.read_table(folder / "interactions.parquet")


def _frame(folder: Path) -> Any:
    return _events(folder).to_pandas()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_events(
    shops: dict[str, Path], tmp_path: Path
) -> None:
    again = write_shop(tmp_path / "again", "types", USERS, ITEMS)
    other = write_shop(tmp_path / "other", "types", USERS, ITEMS, seed=2)
    for name in FILES:
        assert (again / name).read_bytes() == (shops["types"] / name).read_bytes(), name
        assert (other / name).read_bytes() != (shops["types"] / name).read_bytes(), name


def test_every_kind_has_about_the_same_number_of_events_and_the_types_that_it_names(shops: dict[str, Path]) -> None:
    for kind, folder in shops.items():
        assert 37 < len(_events(folder)) / USERS < 43, kind
    assert "event_type" not in _events(shops["untyped"]).column_names
    types = {kind: set(_events(shops[kind])["event_type"].to_pylist()) for kind in KINDS if kind != "untyped"}
    assert types == {
        "types": {"view", "click", "cart", "purchase"},
        "views": {"view"},
        "purchase-after-view": {"view", "purchase"},
    }
    with pytest.raises(ConfigError, match="no such kind of shop data: 'likes'; there are: types, views"):
        write_shop("nowhere", "likes", USERS, ITEMS)


def test_views_are_common_and_purchases_rare(shops: dict[str, Path]) -> None:
    share = _frame(shops["types"]).event_type.value_counts(normalize=True)
    assert share["view"] > 0.5
    assert share["view"] > share["click"] > share["cart"] > share["purchase"] > 0.05


def test_popularity_follows_zipfs_law(shops: dict[str, Path]) -> None:
    count = np.sort(_frame(shops["views"]).item_id.value_counts().to_numpy())[::-1]
    rank = np.arange(10, ITEMS // 5)
    slope, _ = np.polyfit(np.log(rank), np.log(count[rank - 1]), 1)
    assert -1.2 < slope < -0.8
    assert np.corrcoef(np.log(rank), np.log(count[rank - 1]))[0, 1] < -0.98


def test_the_lengths_of_histories_are_log_normal(shops: dict[str, Path]) -> None:
    length = np.log(_frame(shops["views"]).user_id.value_counts().to_numpy())
    assert len(length) == USERS
    assert 0.95 < length.std() < 1.25
    standard = (length - length.mean()) / length.std()
    assert abs((standard**3).mean()) < 0.3, "symmetric as a logarithm"
    assert abs((standard**4).mean() - 3) < 0.6


@pytest.mark.parametrize("kind", ["types", "purchase-after-view"])
def test_what_is_bought_was_viewed_before(shops: dict[str, Path], kind: str) -> None:
    events = _frame(shops[kind])
    first = events[events.event_type == "view"].groupby(["user_id", "item_id"]).timestamp.min().rename("viewed")
    bought = events[events.event_type == "purchase"].join(first, on=["user_id", "item_id"])
    assert (bought.viewed < bought.timestamp).all()
    first_bought = bought.drop_duplicates(["user_id", "item_id"])
    minutes = (first_bought.timestamp - first_bought.viewed).dt.total_seconds() / 60
    assert minutes.quantile(0.05) < 10
    assert minutes.quantile(0.9) > 24 * 60


def test_most_purchases_were_in_the_cart_and_some_items_are_bought_again_weeks_later(shops: dict[str, Path]) -> None:
    events = _frame(shops["types"])
    bought = events[events.event_type == "purchase"]
    in_cart = set(events[events.event_type == "cart"][["user_id", "item_id"]].itertuples(index=False, name=None))
    pairs = bought[["user_id", "item_id"]].itertuples(index=False, name=None)
    assert np.mean([pair in in_cart for pair in pairs]) > 0.75
    repeats = bought.duplicated(["user_id", "item_id"])
    assert 0.15 < repeats.mean() < 0.55
    days = bought.groupby(["user_id", "item_id"]).timestamp.diff().dropna().dt.total_seconds() / 86_400
    assert 10 < days.median() < 60


def test_sessions_are_short_and_cover_the_year(shops: dict[str, Path]) -> None:
    events = _frame(shops["views"]).sort_values(["user_id", "timestamp"], kind="stable")
    assert events.timestamp.min().year == events.timestamp.max().year == 2025
    assert (events.timestamp.max() - events.timestamp.min()).days > 355
    gap = events.groupby("user_id").timestamp.diff().dropna().dt.total_seconds()
    assert 0.2 < (gap > 1800).mean() < 0.35, "about one view in four begins a session"
    assert gap[gap <= 1800].median() < 90


def test_a_user_stays_with_few_clusters_which_change_over_the_year(shops: dict[str, Path]) -> None:
    department = pq.read_table(shops["views"] / "items.parquet", columns=["item_id", "department"]).to_pandas()
    events = _frame(shops["views"]).merge(department, on="item_id").sort_values("timestamp")

    def likeness(one: Any, other: Any) -> float:
        one, other = (each.department.value_counts(normalize=True) for each in (one, other))
        return float(np.sqrt(one.mul(other, fill_value=0)).sum())

    long = [part for _, part in events.groupby("user_id") if len(part) > 60]
    near = np.mean([likeness(part[::2], part[1::2]) for part in long])
    far = np.mean([likeness(part[: len(part) // 2], part[len(part) // 2 :]) for part in long])
    others = np.mean([likeness(one, other) for one, other in itertools.pairwise(long)])
    assert near > far + 0.03 > others + 0.1


def test_each_feature_has_gaps_and_tells_of_the_item(shops: dict[str, Path]) -> None:
    items = pq.read_table(shops["types"] / "items.parquet")
    share = {name: items[name].null_count / ITEMS for name in items.column_names if name != "item_id"}
    assert all(0 < gaps < 0.45 for gaps in share.values()), share
    assert pc.count_distinct(items["brand"]).as_py() > 64
    price = np.log(items["price"].drop_null().to_numpy())
    assert 0.6 < price.std() < 1.5
    assert pa.types.is_boolean(items["in_stock"].type)
    assert set(pc.list_value_length(items["embedding"]).drop_null().to_pylist()) == {16}
    assert 0 in pc.list_value_length(items["tags"]).to_pylist(), "some lists are empty"
    users = pq.read_table(shops["types"] / "users.parquet")
    assert all(users[name].null_count for name in users.column_names if name != "user_id")


def test_baselines_are_tuned_on_few_users_numbered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "MOST_TUNING_USERS", 2)
    some = quality._of_some_users(interactions([(user, item, 1.0) for user in (1, 5, 9) for item in range(3)]))
    assert isinstance(some, Interactions)
    assert some.user_E.tolist() == [0, 0, 0, 1, 1, 1]


def test_the_table_names_the_best_of_each_and_whether_the_goal_is_reached() -> None:
    def row(value: float) -> dict[str, float]:
        return dict.fromkeys(quality.COLUMNS, value)

    found = quality.Quality(
        kind="views",
        rows={
            quality.CEILING: {"ndcg@10": 0.5},
            "funnel": row(0.2),
            "ease, tuned": row(0.25),
            "source: linear": row(0.19),
        },
        best_source="source: linear",
        best_baseline="ease, tuned",
        settings={"ease": {"regularisation": 30.0}},
        judged="All.",
        recall=0.6,
        seconds=90,
        model="m1",
    )
    text = quality.section([found], 2000, 5000, "", "python -m benchmarks shop")
    assert text.startswith("## Quality on shop data: 2,000 users, 5,000 items\n")
    assert "| views | 0.5000 | 0.2000 | 0.1900 (linear) | 0.2500 (ease) | 0.800 | 90 |" in text
    assert "| candidates in the ideal order | 0.5000 |  |  |  |  |" in text
    assert "0.800 times that of the best tuned baseline (ease); the goal is 1.10." in text
