"""The transforms: any value gives finite features, each row by itself, the same from Arrow and from plain values."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.artifact.reader import Artifact
from deployments.models.features.arrow_columns import table_features
from deployments.models.features.schema import SCHEMA_FILE
from deployments.models.features.transforms import (
    Column,
    Dtype,
    Labels,
    MultiHot,
    Project,
    Raw,
    Standardise,
    Transform,
    apply,
)
from tests.support.paths import ROOT


def column(transform: Transform, dtype: Dtype = "float64", missing: float = 0.0) -> Column:
    return Column(name="x", source="item", dtype=dtype, shape=(), missing=missing, transform=transform)


PRICE = column(Standardise(log=True, center=1.0, scale=0.5, clip=5.0))
TAGS = column(MultiHot(values=("new", "red"), buckets=3, seed=7), "string")
IMAGE = column(Project(mean=(1.0, 0.0, 2.0), axes=((1.0, 0.5, 0.0), (0.0, 0.25, -1.0)), clip=5.0))
ANY = (PRICE, TAGS, IMAGE)


def attributes(of: Column, raw: Raw, n_rows: int) -> Any:
    return apply([of], {"x": raw}, n_rows).attributes_NA


def content(of: Column, raw: Raw, n_rows: int) -> Any:
    return apply([of], {"x": raw}, n_rows).content_NC


def test_a_number_is_taken_in_logarithm_standardised_and_clipped() -> None:
    found = attributes(PRICE, [np.e - 1, 0.0, np.expm1(2.0), 1e300, None], 5)[:, 0]
    np.testing.assert_allclose(found, [0.0, -2.0, 2.0, 5.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("value", [None, np.nan, np.inf, -np.inf, -3.0, "12", {}, [1], 10**400, Decimal("NaN"), 1j])
def test_what_is_no_number_counts_as_missing(value: object) -> None:
    of = column(PRICE.transform, missing=0.25)
    assert attributes(of, [value], 1).tolist() == [[0.25]]


def test_a_column_that_the_table_lacks_is_missing_in_every_row() -> None:
    of = [column(PRICE.transform, missing=0.25), TAGS]
    features = apply(of, {}, 2)
    assert features.attributes_NA.tolist() == [[0.25], [0.25]]
    assert not features.content_NC.any()


def test_times_are_seconds_whatever_they_are_given_as() -> None:
    of = column(Standardise(log=False, center=0.0, scale=1e9, clip=5.0), "timestamp")
    moment = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    given_as = ["2001-09-09T01:46:40", "2001-09-09T03:46:40+02:00", moment, 1_000_000_000, moment.replace(tzinfo=None)]
    assert attributes(of, given_as, 5).tolist() == [[1.0]] * 5
    assert attributes(of, np.array(["2001-09-09T01:46:40", "NaT"], "M8[s]"), 2).tolist() == [[1.0], [0.0]]
    days = attributes(of, [date(2001, 9, 9), "2001-09-09", "soon"], 3)[:, 0]
    np.testing.assert_allclose(days, [0.9999936, 0.9999936, 0.0])


def test_a_label_has_its_own_feature_or_falls_into_its_bucket() -> None:
    names = apply([TAGS], {}, 0).content
    assert names == ["x=new", "x=red", "x#0", "x#1", "x#2"]
    found = content(TAGS, [["red", "new"], "red", ["unheard of"], [], None, ["", None, 4.5, True]], 6)
    assert found.tolist() == [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0] * 5, [0] * 5, [0] * 5]


def test_buckets_are_the_same_in_every_process_and_release() -> None:
    many = column(MultiHot(values=(), buckets=1000, seed=7), "string")
    found = content(many, ["brand 17", "Bjørn", "\ud800", 42], 4)
    assert found.argmax(axis=1).tolist() == [30, 723, 685, 943]


def test_without_buckets_an_unseen_label_is_missing() -> None:
    assert not content(column(MultiHot(values=("red",), buckets=0, seed=0), "string"), ["blue"], 1).any()


def test_a_vector_becomes_its_axes_and_one_of_another_length_is_missing() -> None:
    rows = [[2.0, 2.0, 2.0], [1.0, 0.0, 2.0], [1.0, 2.0], None, [np.nan, 1, 1], "abc", [1e300, 0, -1e300]]
    found = attributes(IMAGE, rows, 7).tolist()
    assert found == [[2.0, 0.5], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [5.0, 5.0]]
    assert attributes(IMAGE, np.ones((2, 4)), 2).tolist() == [[0, 0]] * 2


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.dates(),
    st.datetimes(),
    st.timedeltas(),
    st.decimals(),
    st.binary(max_size=3),
)
_values = st.one_of(_scalars, st.lists(_scalars, max_size=4), st.lists(st.floats(width=32), min_size=3, max_size=3))


@given(st.lists(_values, min_size=1, max_size=8), st.sampled_from(ANY))
def test_any_values_give_finite_features_and_each_row_by_itself(rows: list[Any], of: Column) -> None:
    together = apply([of], {"x": rows}, len(rows))
    for found in (together.content_NC, together.attributes_NA):
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
    for row, value in enumerate(rows):
        alone = apply([of], {"x": [value]}, 1)
        np.testing.assert_array_equal(alone.content_NC[0], together.content_NC[row])
        np.testing.assert_array_equal(alone.attributes_NA[0], together.attributes_NA[row])


@given(st.integers(1, 70), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_the_axes_of_a_row_are_the_same_bits_in_any_batch(n_rows: int, dimensions: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vector_ND = rng.normal(size=(n_rows, dimensions)).astype(np.float32)
    of = column(Project(mean=tuple(rng.normal(size=dimensions)), axes=(tuple(rng.normal(size=dimensions)),), clip=99.0))
    together = attributes(of, vector_ND, n_rows)
    last = attributes(of, [vector_ND[-1].tolist()], 1)
    np.testing.assert_array_equal(last[0], together[-1])


@pytest.mark.parametrize(
    ("of", "array"),
    [
        (PRICE, pa.array([1, None, 3], pa.int32())),
        (PRICE, pa.array([2**63 - 1, 5, None], pa.int64())),
        (PRICE, pa.array([Decimal("1.25"), None], pa.decimal128(5, 2))),
        (PRICE, pa.array([True, None, False])),
        (PRICE, pa.array([1.5, float("nan"), None], pa.float16())),
        (PRICE, pa.array([date(2020, 1, 31), None], pa.date32())),
        (PRICE, pa.array([date(2020, 1, 31), None], pa.date64())),
        (PRICE, pa.array([datetime(2020, 1, 31, 5), None], pa.timestamp("ns", "Europe/Oslo"))),
        (PRICE, pa.array([1, None], pa.duration("ms"))),
        (PRICE, pa.array([3600, None], pa.time32("s"))),
        (PRICE, pa.array([1, 2, 1, None]).dictionary_encode()),
        (TAGS, pa.array(["red", None, "odd", ""])),
        (TAGS, pa.array(["red", None, "odd"], pa.large_string())),
        (TAGS, pa.array(["red", None, "odd"], pa.string_view())),
        (TAGS, pa.array(["red", None, "odd"]).dictionary_encode()),
        (TAGS, pa.array([["red", None, "odd"], None, []], pa.list_(pa.string()))),
        (TAGS, pa.array([["red"], None], pa.large_list(pa.string()))),
        (TAGS, pa.array([["red", "odd"], None], pa.list_(pa.dictionary(pa.int8(), pa.string())))),
        (TAGS, pa.array([["red"], ["odd", "new"], None], pa.list_view(pa.string()))),
        (TAGS, pa.array([[1, 2], None, [3]], pa.list_(pa.int64()))),
        (IMAGE, pa.array([[1, 2, 3.5], None, [1.0], [None, 1, 2]], pa.list_(pa.float32()))),
        (IMAGE, pa.array([[1, 2, 3], None], pa.list_(pa.int64(), 3))),
        (IMAGE, pa.array([[1, 2, 3.5], None], pa.list_(pa.float64(), 3))),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_an_arrow_column_gives_what_its_values_give(of: Column, array: pa.Array) -> None:
    expected = apply([of], {"x": array.to_pylist()}, len(array))
    chunked = pa.chunked_array([array.slice(0, 1), array.slice(1)])
    found = table_features([of], pa.table({"x": chunked}))
    assert found.content_NC.any() or found.attributes_NA.any()
    np.testing.assert_array_equal(found.content_NC, expected.content_NC)
    np.testing.assert_allclose(found.attributes_NA, expected.attributes_NA, rtol=1e-6)


def test_a_column_whose_type_no_longer_fits_is_missing() -> None:
    for of, array in ((PRICE, pa.array(["a"])), (TAGS, pa.array([1.5])), (IMAGE, pa.array(["b"]))):
        features = table_features([of], pa.table({"x": array}))
        assert not features.content_NC.any()
        assert not features.attributes_NA.any()


def test_labels_may_come_encoded() -> None:
    encoded = Labels(np.array([0, 2]), np.array([1, 0]), ["red", "new"])
    assert content(TAGS, encoded, 3)[:, :2].tolist() == [[1, 0], [0, 0], [0, 1]]


def test_the_file_is_read_and_applied_with_numpy_alone(artifact: Artifact) -> None:
    script = f"""
import json, sys
for name in ("pyarrow", "pydantic", "pandas", "torch", "numba", "faiss", "ray"):
    sys.modules[name] = None
from deployments.models.features.transforms import Column, apply
entries = json.load(open({str(artifact.path(SCHEMA_FILE))!r}))["columns"]
columns = [Column.of(entry) for entry in entries if entry["source"] == "item"]
features = apply(columns, {{"genres": [["Drama", "Classic"]], "year": [1985.0]}}, 1)
print(json.dumps([features.content, features.content_NC.tolist(), features.attributes_NA.tolist()]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    names, content_NC, attributes_NA = json.loads(done.stdout)
    assert {name for name, has in zip(names, content_NC[0], strict=True) if has} == {"genres=Drama", "genres=Classic"}
    assert -5 < attributes_NA[0][0] < 0
