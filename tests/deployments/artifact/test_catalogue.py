"""The catalogue: ids, metadata and masks; errors of wrong filters."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.artifact.catalogue import Catalogue
from deployments.errors import ArtifactError, InvalidRequest
from deployments.messages import Filter

TABLE = pa.table(
    {
        "item_id": ["a", "b", "c", "d"],
        "title": ["Alien", "Brazil", None, "Dune"],
        "genres": pa.array([["Horror", "Sci-Fi"], ["Comedy", None], [], None], pa.list_(pa.string())),
        "language": ["en", "en", "fr", None],
        "year": pa.array([1979, 1985, math.nan, None], pa.float64()),
        "seasons": pa.array([1, 2, 3, None], pa.int32()),
    }
)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.from_table(TABLE)


def passing(catalogue: Catalogue, filters: dict[str, object]) -> list[str]:
    mask = catalogue.mask(catalogue.validate(filters))
    return [item_id for item_id, passes in zip(catalogue.item_ids, mask, strict=True) if passes]


def test_a_catalogue_has_the_items_and_attributes_of_its_table(catalogue: Catalogue) -> None:
    assert len(catalogue) == 4
    assert catalogue.item_ids == ("a", "b", "c", "d")
    kinds = {"genres": "multi", "language": "categorical", "year": "numeric", "seasons": "numeric"}
    assert catalogue.attributes == kinds


def test_an_unknown_id_has_position_minus_one(catalogue: Catalogue) -> None:
    positions = catalogue.positions(["c", "x", "a"])
    np.testing.assert_array_equal(positions, np.array([2, -1, 0], np.int32), strict=True)
    assert catalogue.positions([]).shape == (0,)


def test_metadata_is_json_with_none_for_the_unknown(catalogue: Catalogue) -> None:
    assert catalogue.metadata(0) == {
        "title": "Alien",
        "genres": ["Horror", "Sci-Fi"],
        "language": "en",
        "year": 1979,
        "seasons": 1,
    }
    assert catalogue.metadata(3) == {"title": "Dune", "genres": [], "language": None, "year": None, "seasons": None}
    for position in range(4):
        json.dumps(catalogue.metadata(position), allow_nan=False)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"genres": ["Comedy", "Sci-Fi"]}, ["a", "b"]),
        ({"genres": "Horror"}, ["a"]),
        ({"language": "en"}, ["a", "b"]),
        ({"language": ["fr", "en"], "year": {"gte": 1980}}, ["b"]),
        ({"year": {"gte": 1979, "lte": 1985}}, ["a", "b"]),
        ({"year": {"lte": 1984.5}}, ["a"]),
        ({"seasons": {"gte": 2}}, ["b", "c"]),
    ],
)
def test_a_filter_passes_the_items_that_meet_all_its_clauses(
    catalogue: Catalogue, filters: dict[str, object], expected: list[str]
) -> None:
    assert passing(catalogue, filters) == expected


def test_equivalent_filters_are_equal(catalogue: Catalogue) -> None:
    one = catalogue.validate({"genres": ["Comedy", "Horror", "Comedy"], "language": "en", "year": {"gte": 1980}})
    two = catalogue.validate({"year": {"gte": 1980.0}, "language": ["en"], "genres": ["Horror", "Comedy"]})
    assert one == two
    assert hash(one) == hash(two)
    assert one == Filter((("genres", ("Comedy", "Horror")), ("language", ("en",))), (("year", (1980.0, math.inf)),))


@pytest.mark.parametrize(
    ("filters", "field", "message"),
    [
        ({"genre": "Comedy"}, "filters.genre", "no such attribute; the catalogue has: genres, language, year"),
        ({"title": "Alien"}, "filters.title", "no such attribute"),
        ({"genres": "Comdy"}, "filters.genres", "no item has the value 'Comdy'; close: 'Comedy'"),
        ({"genres": ["Comedy", "zzz"]}, "filters.genres", "known: 'Comedy', 'Horror', 'Sci-Fi'"),
        ({"genres": []}, "filters.genres", "at least one string"),
        ({"genres": [1]}, "filters.genres", "list of strings"),
        ({"genres": None}, "filters.genres", "must be a string or a list"),
        ({"genres": {"gte": 1}}, "filters.genres", "must be a string or a list"),
        ({"year": 1990}, "filters.year", "gte and/or lte"),
        ({"year": {}}, "filters.year", "gte and/or lte"),
        ({"year": {"gt": 3}}, "filters.year", "gte and/or lte"),
        ({"year": {"gte": math.nan}}, "filters.year", "gte must be a finite number"),
        ({"year": {"lte": math.inf}}, "filters.year", "lte must be a finite number"),
        ({"year": {"lte": 10**400}}, "filters.year", "lte must be a finite number"),
        ({"year": {"gte": True}}, "filters.year", "gte must be a finite number"),
        ({"year": {"gte": "1990"}}, "filters.year", "gte must be a finite number"),
        ({"year": {"gte": 2000, "lte": 1990}}, "filters.year", "gte 2000 is greater than lte 1990"),
    ],
)
def test_a_wrong_filter_is_refused_with_the_field_and_the_remedy(
    catalogue: Catalogue, filters: dict[str, object], field: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        catalogue.validate(filters)
    ((named, text),) = refused.value.errors
    assert named == field
    assert message in text


def test_every_wrong_field_is_named_at_once(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidRequest) as refused:
        catalogue.validate({"nope": 1, "genres": [], "language": "en"})
    assert [field for field, _ in refused.value.errors] == ["filters.nope", "filters.genres"]


def test_a_huge_value_is_not_repeated_whole(catalogue: Catalogue) -> None:
    for filters in ({"genres": "x" * 10**6}, {"x" * 10**6: "Comedy"}):
        with pytest.raises(InvalidRequest) as refused:
            catalogue.validate(filters)
        assert len(str(refused.value)) < 400


def test_neighbours_are_suggested_where_there_are_many_values() -> None:
    ids = [f"brand{i:05}" for i in range(5000)]
    catalogue = Catalogue.from_table(pa.table({"item_id": ids, "brand": ids}))
    with pytest.raises(InvalidRequest, match="close: 'brand0400"):
        catalogue.validate({"brand": "brand0400"})


def test_masks_are_cached_and_read_only(catalogue: Catalogue) -> None:
    mask = catalogue.mask(catalogue.validate({"language": "en"}))
    assert catalogue.mask(catalogue.validate({"language": ["en"]})) is mask
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = False


def test_a_category_is_the_first_value(catalogue: Catalogue) -> None:
    genre = catalogue.category_codes("genres")
    np.testing.assert_array_equal(genre, np.array([1, 0, -1, -1], np.int32), strict=True)
    np.testing.assert_array_equal(catalogue.category_codes("language"), np.array([0, 0, 1, -1], np.int32), strict=True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"id": ["a"]}), "no column item_id"),
        (pa.table({"item_id": [1]}), "column item_id is int64; it must be string"),
        (pa.table({"item_id": ["a", "a"]}), "must be unique"),
        (pa.table({"item_id": ["a", None]}), "without nulls"),
        (pa.table({"item_id": pa.array([None], pa.binary())}), "column item_id is binary; it must be string"),
    ],
)
def test_a_table_that_is_no_catalogue_is_refused(table: pa.Table, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Catalogue.from_table(table)


UTC_DAY = datetime(2024, 1, 31, tzinfo=UTC)

TYPED = pa.table(
    {
        "item_id": pa.array(["a", "b", "c"]).dictionary_encode(),
        "title": pa.array([1984, 2001, None]),
        "in_stock": [True, False, None],
        "sold_out": [True, True, True],
        "released": pa.array([date(2024, 1, 31), date(1969, 7, 20), None]),
        "updated": pa.array([UTC_DAY, UTC_DAY + timedelta(hours=5, microseconds=7), None], pa.timestamp("ns", "UTC")),
        "price": pa.array([Decimal("9.50"), Decimal("10.00"), None], pa.decimal128(9, 2)),
        "sizes": pa.array([[38, 39], [], None], pa.list_(pa.int64())),
        "brand": pa.array(["x", "y", None]).dictionary_encode(),
        "image": pa.array([[0.5, 1.5], None, []], pa.list_(pa.float32())),
        "blob": pa.array([b"1", None, b"2"]),
        "nested": pa.array([{"a": 1}, None, None]),
        "nothing": pa.nulls(3),
    }
)


def test_every_type_that_people_filter_by_is_an_attribute_and_the_others_are_none() -> None:
    catalogue = Catalogue.from_table(TYPED)
    numeric, categorical = ("released", "updated", "price"), ("in_stock", "sold_out", "brand")
    expected = dict.fromkeys(numeric, "numeric") | dict.fromkeys(categorical, "categorical") | {"sizes": "multi"}
    assert catalogue.attributes == expected


def test_metadata_shows_true_and_false_and_times_in_iso_8601() -> None:
    catalogue = Catalogue.from_table(TYPED)
    assert catalogue.metadata(1) == {
        "title": "2001",
        "in_stock": False,
        "sold_out": True,
        "released": "1969-07-20",
        "updated": "2024-01-31T05:00:00Z",
        "price": 10,
        "sizes": [],
        "brand": "y",
    }
    shown = catalogue.metadata(2)
    assert shown.pop("sold_out") is True
    assert shown == {"title": None, "sizes": []} | dict.fromkeys(("in_stock", "released", "updated", "price", "brand"))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"in_stock": True}, ["a"]),
        ({"in_stock": [False, True]}, ["a", "b"]),
        ({"sold_out": False}, []),
        ({"released": {"gte": "1970-01-01"}}, ["a"]),
        ({"released": {"lte": 0}}, ["b"]),
        ({"updated": {"gte": "2024-01-31T06:00:00+01:00"}}, ["b"]),
        ({"updated": {"lte": "2024-01-31T00:00:00Z"}}, ["a"]),
        ({"price": {"lte": 9.5}}, ["a"]),
        ({"sizes": ["39"]}, ["a"]),
        ({"brand": "y"}, ["b"]),
    ],
)
def test_flags_times_and_decimals_are_filtered_by(filters: dict[str, object], expected: list[str]) -> None:
    assert passing(Catalogue.from_table(TYPED), filters) == expected


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"in_stock": "true"}, "must be true or false"),
        ({"in_stock": []}, "must be true or false"),
        ({"in_stock": 1}, "must be true or false"),
        ({"released": {"gte": "soon"}}, "gte must be Unix seconds, or a date or time in ISO 8601, e.g. 1990-01-31"),
        ({"released": {"gte": True}}, "gte must be Unix seconds"),
        ({"released": "2024"}, 'e.g. {"gte": "1990-01-31"}'),
        ({"released": {"gte": "2024-01-31", "lte": "2024-01-30"}}, "no item can pass"),
        ({"image": [0.5]}, "no such attribute"),
        ({"blob": "1"}, "no such attribute"),
    ],
)
def test_a_wrong_filter_on_a_flag_or_a_time_says_what_to_give(filters: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Catalogue.from_table(TYPED).validate(filters)
    assert message in str(refused.value)


def test_the_filters_schema_says_the_types_of_flags_and_times() -> None:
    properties = Catalogue.from_table(TYPED).filter_schema()["properties"]
    assert properties["in_stock"]["anyOf"][0] == {"type": "boolean"}
    bounds = properties["updated"]["properties"]
    assert bounds["gte"] == {"anyOf": [{"type": "number"}, {"type": "string", "format": "date-time"}]}


@pytest.mark.parametrize("seconds", [2**63 - 1, -(2**63), 253_402_300_800])
def test_times_beyond_the_calendar_are_shown_and_filtered(seconds: int) -> None:
    far = pa.table({"item_id": ["a"], "at": pa.array([seconds], pa.timestamp("s"))})
    catalogue = Catalogue.from_table(far)
    assert catalogue.metadata(0)["at"].endswith("Z")
    assert passing(catalogue, {"at": {"gte": "1970-01-01"}}) == (["a"] if seconds > 0 else [])


def test_an_empty_catalogue_is_valid() -> None:
    catalogue = Catalogue.from_table(TABLE.slice(0, 0))
    assert len(catalogue) == 0
    assert catalogue.mask(Filter()).shape == (0,)


def test_a_table_in_chunks_is_read_as_a_whole() -> None:
    catalogue = Catalogue.from_table(pa.concat_tables([TABLE.slice(0, 2), TABLE.slice(2)]))
    assert catalogue.metadata(3)["title"] == "Dune"
    assert passing(catalogue, {"genres": "Horror", "language": "en"}) == ["a"]


@given(st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from("pqr")))), max_size=20))
def test_a_mask_is_what_a_loop_over_the_items_finds(labels: list[list[str | None] | None]) -> None:
    ids = [str(i) for i in range(len(labels))]
    tags = pa.array(labels, pa.list_(pa.string()))
    catalogue = Catalogue.from_table(pa.table({"item_id": pa.array(ids, pa.string()), "tags": tags}))
    present = {tag for row in labels for tag in row or [] if tag}
    for tag in present:
        expected = [i for i, row in zip(ids, labels, strict=True) if tag in (row or [])]
        assert passing(catalogue, {"tags": tag}) == expected
