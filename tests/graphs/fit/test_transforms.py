"""Fitting the transforms: what becomes a feature, with which numbers, and what is left out with which sentence."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.models.features.arrow_columns import table_features
from deployments.models.features.schema import Schema
from deployments.models.features.transforms import MultiHot, Project, Standardise
from graphs.data.dataset import MOVIELENS, load_dataset
from graphs.fit.transforms import AXES, LIMITS, fit_columns, fit_features
from graphs.fit.vocabulary import BUCKETS, VALUES

RNG = np.random.default_rng(5)
N = 1000


def fit(**columns: Any) -> tuple[dict[str, Any], list[str]]:
    """The transforms by name, and the notes, of a table of items with these columns."""
    n_rows = len(next(iter(columns.values())))
    table = pa.table({"item_id": [f"i{i}" for i in range(n_rows)]} | columns)
    fitted, notes = fit_columns(table, "item")
    return {column.name: column.transform for column in fitted}, notes


def test_movielens_has_the_features_of_its_genres_and_years() -> None:
    dataset = load_dataset(MOVIELENS)
    features = fit_features(dataset)
    assert not features.notes
    genres = dataset.items["genres"].to_pylist()
    assert features.items.content == [f"genres={genre}" for genre in sorted({g for row in genres for g in row})]
    expected_NC = [[f"genres={g}" in {f"genres={own}" for own in row} for g in _genres(features.items.content)]
                   for row in genres]  # fmt: skip
    np.testing.assert_array_equal(features.items.content_NC, np.array(expected_NC, np.float32))
    year_N = dataset.items["year"].to_numpy()
    middle, spread = np.nanmedian(year_N), np.nanstd(year_N[np.isfinite(year_N)])
    expected_N = np.clip((np.nan_to_num(year_N, nan=middle) - middle) / spread, -5, 5).astype(np.float32)
    np.testing.assert_array_equal(features.items.attributes_NA[:, 0], expected_N)


def _genres(content: list[str]) -> list[str]:
    return [name.removeprefix("genres=") for name in content]


def test_numbers_of_every_kind_are_standardised_around_the_median() -> None:
    found, notes = fit(
        whole=[1, 2, 6, None],
        money=pa.array([Decimal("1.50"), None, Decimal("2.50"), Decimal("2.00")], pa.decimal128(5, 2)),
        flag=[True, False, None, False],
        since=pa.array([datetime(2020, 1, d, tzinfo=UTC) for d in (1, 2, 3)] + [None], pa.timestamp("ms", "UTC")),
    )
    assert not notes
    assert (found["whole"].center, found["whole"].scale) == (2.0, pytest.approx(np.std([1, 2, 6])))
    assert (found["money"].center, found["flag"].center) == (2.0, 0.0)
    assert found["since"].center == datetime(2020, 1, 2, tzinfo=UTC).timestamp()
    assert not any(transform.log for transform in found.values())


def test_a_skewed_number_is_taken_in_logarithm_and_a_year_a_negative_number_a_flag_and_a_time_are_not() -> None:
    price = RNG.lognormal(3, 1.5, N)
    found, _ = fit(
        price=price,
        sold=RNG.geometric(0.02, N) * (RNG.random(N) < 0.3),
        year=RNG.integers(1900, 2020, N).astype(float),
        balance=price - 10,
        rare=RNG.random(N) < 0.1,
        rating=RNG.uniform(1, 5, N),
        at=pa.array((price * 1000).astype(int), pa.timestamp("s")),
    )
    assert {name for name, transform in found.items() if transform.log} == {"price", "sold"}


def test_missing_infinite_and_nan_numbers_take_the_median() -> None:
    table = pa.table({"item_id": list("abcdef"), "x": [1.0, 2.0, 4.0, None, math.nan, math.inf]})
    fitted, _ = fit_columns(table, "item")
    found_N = table_features(fitted, table).attributes_NA[:, 0]
    np.testing.assert_allclose(found_N[1:], [0, 2 / np.std([1, 2, 4]), 0, 0, 0], rtol=1e-6)


def test_frequent_labels_get_features_and_the_tail_shares_buckets() -> None:
    brands = [f"b{int(b)}" for b in RNG.zipf(1.3, 20_000) % 5000]
    found, (note,) = fit(brand=brands)
    transform = found["brand"]
    assert (len(transform.values), transform.buckets) == (VALUES, BUCKETS)
    assert {"b1", "b2", "b3"} <= set(transform.values)
    n_values = len(set(brands))
    assert note == (
        f"items, column brand: {VALUES} of its {n_values:,} values are features, the most frequent ones in 5 rows or "
        f"more; the other {n_values - VALUES:,} share {BUCKETS} hash buckets"
    )


def test_labels_without_repeats_are_left_out_and_the_frequent_ones_stay() -> None:
    found, (said,) = fit(note=["none"] * 500 + [f"text {i}" for i in range(500)])
    assert found["note"].values == ("none",)
    assert "1 of its 501 values are features" in said
    assert said.endswith("the other 500 are left out")


def test_a_long_label_gets_no_feature_of_its_own() -> None:
    found, _ = fit(kind=["x" * 101] * 9 + ["a", "a", "b", "b", "y" * 200, "y" * 200])
    assert (found["kind"].values, found["kind"].buckets) == (("a", "b"), 1)


def test_the_labels_of_all_columns_share_the_features_of_a_table() -> None:
    columns = {f"c{c}": [f"v{int(v)}" for v in RNG.integers(0, 60, N)] for c in range(10)}
    found, notes = fit(**columns)
    assert sum(len(transform.values) for transform in found.values()) == LIMITS["item"].values
    assert sum(transform.buckets for transform in found.values()) <= LIMITS["item"].buckets
    assert len(set(notes)) == len(notes) >= 5


def test_vectors_become_the_axes_that_hold_most_of_their_variance() -> None:
    two_N2 = RNG.normal(size=(N, 2))
    vector_ND = (two_N2 @ RNG.normal(size=(2, 16)) + 0.01 * RNG.normal(size=(N, 16))).astype(np.float32)
    table = pa.table({"item_id": [str(i) for i in range(N)], "image": vector_ND.tolist()})
    fitted, notes = fit_columns(table, "item")
    assert not notes
    features = table_features(fitted, table)
    assert features.attributes == ["image.axis_1", "image.axis_2"]
    np.testing.assert_allclose(features.attributes_NA.std(axis=0), 1, atol=0.01)
    assert abs(np.corrcoef(features.attributes_NA.T)[0, 1]) < 0.01
    noise = pa.table({"item_id": table["item_id"], "image": RNG.normal(size=(N, 64)).tolist()})
    (column,), _ = fit_columns(noise, "item")
    assert len(column.attributes()) == AXES


def test_vectors_of_another_length_are_missing_and_the_first_item_is_named() -> None:
    rows: list[Any] = RNG.normal(size=(40, 3)).tolist()
    rows[7], rows[9], rows[11], rows[13] = [1.0, 2.0], [math.nan, 0.0, 0.0], None, []
    found, notes = fit(image=pa.array(rows, pa.list_(pa.float64())))
    assert isinstance(found["image"], Project)
    assert notes == [
        "items, column image: 2 rows are not 3 finite numbers and count as missing; the first is of item 'i7'"
    ]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([None, None], "it holds no value"),
        (pa.array([None, None], pa.string()), "it holds no value"),
        (pa.array([None, None], pa.float64()), "it holds no value"),
        (pa.array([[], None], pa.list_(pa.string())), "it holds no value"),
        (pa.array([[], None], pa.list_(pa.float32())), "it holds no value"),
        ([math.nan, math.inf], "it holds no value"),
        ([3, None], "it holds one value alone"),
        ([True, True], "it holds one value alone"),
        ([[1.5, 2.5], [1.5, 2.5]], "it holds one value alone"),
        (["NO", "NO"], "every row has 'NO'"),
        (["a b c", "d e f"], "hardly any of its 2 values is in 2 rows"),
        ([[0.5], [0.5, 1.5]], "its lists of numbers have 1 to 2 entries; vectors have one length"),
        ([[0.5] * 3000, [1.5] * 3000], "its vectors have 3,000 dimensions; give it 2,048 or fewer"),
        ([b"\x00", b"\x01"], "its type is binary; used are text, numbers, times, and lists of text or numbers"),
        ([{"a": 1}, {"a": 2}], "its type is struct<a: int64>"),
        (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())), "its type is map<string, int64>"),
        ([[["a"]], [["b"]]], "its type is list<item: list<item: string>>"),
        ([[True], [False]], "its type is list<item: bool>"),
        ([1e308, -1.7e308], "can't be standardised"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_column_that_cannot_be_used_is_left_out_with_a_sentence(values: Any, why: str) -> None:
    found, (note,) = fit(x=values)
    assert not found
    assert note.startswith("items, column x: left out: ")
    assert why in note


def test_numbers_beyond_the_limit_of_a_table_are_left_out() -> None:
    found, notes = fit(**{f"n{i}": RNG.normal(size=20) for i in range(70)})
    assert len(found) == LIMITS["item"].attributes == 64
    assert len(notes) == 6
    assert notes[0] == "items, column n64: left out: the columns before it fill the 64 attributes of a table"


def test_ids_and_titles_are_no_features() -> None:
    assert fit_columns(pa.table({"item_id": ["a", "b"], "title": ["x", "x"], "user_id": [1, 2]}), "item") == ([], [])


def test_fitting_twice_gives_the_same_columns() -> None:
    image, tag, number = RNG.normal(size=(200, 9)).tolist(), RNG.choice(list("abc"), 200), RNG.normal(size=200)
    assert fit(image=image, tag=tag, number=number) == fit(image=image, tag=tag, number=number)


_leaves = st.sampled_from(
    [
        pa.null(), pa.bool_(), pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(),
        pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.date32(), pa.date64(), pa.timestamp("s"),
        pa.timestamp("ns", "UTC"), pa.time32("ms"), pa.time64("ns"), pa.duration("us"), pa.decimal128(38, 3),
        pa.decimal256(76, 0), pa.dictionary(pa.int8(), pa.string()),
    ]
)  # fmt: skip
_types = st.one_of(
    _leaves,
    _leaves.map(pa.list_),
    _leaves.map(pa.large_list),
    _leaves.map(lambda kind: pa.list_(kind, 3)),
    _leaves.map(lambda kind: pa.struct([("a", kind)])),
    st.just(pa.uuid()),
)


def _array(data: st.DataObject, kind: pa.DataType, n_rows: int) -> pa.Array:
    """Values drawn at random, null where Arrow can't take one as `kind`."""
    draw = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=3), st.booleans())
    row = st.one_of(draw, st.lists(draw, max_size=4), st.lists(st.floats(-9, 9), min_size=3, max_size=3))
    values = data.draw(st.lists(row, min_size=n_rows, max_size=n_rows))

    def one(value: Any) -> Any:
        try:
            return pa.array([value], kind)[0].as_py() if not pa.types.is_temporal(kind) else pa.scalar(value, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return None

    return pa.array([one(value) for value in values], kind)


@given(st.data(), _types, st.integers(1, 12))
def test_any_column_that_arrow_can_hold_gives_finite_features_or_a_sentence(
    data: st.DataObject, kind: pa.DataType, n_rows: int
) -> None:
    table = pa.table({"item_id": [str(i) for i in range(n_rows)], "x": _array(data, kind, n_rows)})
    fitted, notes = fit_columns(table, "item")
    assert fitted or notes
    Schema.of(["popular"], fitted)
    features = table_features(fitted, table)
    for found in (features.content_NC, features.attributes_NA):
        assert np.isfinite(found).all()
    for column in fitted:
        assert isinstance(column.transform, MultiHot | Standardise | Project)
