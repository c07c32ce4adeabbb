"""Types and weights of events."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from deployments.store.event_types import EventsConfig
from graphs.data.data_file import Rating
from graphs.data.event_columns import (
    Types,
    describe_types,
    meaning,
    read_ratings,
    read_types,
    read_weights,
    untyped,
)
from graphs.data.findings import Findings

EVENTS = EventsConfig()


def types(*names: str | None) -> tuple[Types, Findings]:
    """The types of a column."""
    findings = Findings()
    found = read_types(pa.chunked_array([pa.array(names, pa.string())]), "f.csv", "kind", findings)
    assert found is not None
    return found, findings


def test_types_compare_without_case_and_space() -> None:
    found, _ = types("Purchase", " purchase", "VIEW")
    assert found.names == ["purchase", "view"]
    assert found.code_E.tolist() == [0, 0, 1]


def test_events_without_a_type_count_as_other() -> None:
    found, findings = types("view", None, "", "x" * 65, "a\nb")
    assert [found.names[code] for code in found.code_E] == ["view", "other", "other", "other", "other"]
    assert findings.notes == ["f.csv: column kind has no type of 1 to 64 characters in 4 rows; they count as `other`"]


def test_types_are_listed_and_unknown_ones_named_with_the_nearest() -> None:
    findings = Findings()
    describe_types(types("view", "puchase", "puchase", "cart")[0], EVENTS, "f.csv", findings)
    assert findings.notes == [
        "f.csv: types of events: puchase 2 (weight 0.5), view 1 (weight 0.4), cart 1 (weight 0.8, success)",
        "f.csv: types that events.types of the configuration does not name: 'puchase' (2 events; did you mean "
        "purchase?); they count as `other` (weight 0.5)",
    ]


def test_a_column_of_very_many_types_is_refused() -> None:
    findings = Findings()
    column = pa.chunked_array([[str(i) for i in range(1001)]])
    assert read_types(column, "f.csv", "kind", findings) is None
    assert "column kind has 1,001 different values, such as '0'" in findings.faults[0]


def test_a_weight_that_is_empty_is_that_of_the_type() -> None:
    findings = Findings()
    given = read_weights(pa.chunked_array([[0.25, None, float("nan")]]), "f.csv", "weight", findings)
    found = meaning(types("view", "view", "purchase")[0], given, EVENTS, "f.csv", findings)
    np.testing.assert_allclose(found.weight_E, [0.25, 0.4, 1.0])
    assert found.target_E.tolist() == [False, False, True]


def test_without_any_success_the_strongest_type_is_one() -> None:
    findings = Findings()
    found = meaning(types("view", "click", "view")[0], None, EVENTS, "f.csv", findings)
    assert found.success_types == ["click"]
    np.testing.assert_allclose(found.weight_E, [0.4, 0.8, 0.4])
    assert "so each click is taken as one; say otherwise by events.types" in findings.notes[0]
    with_target = meaning(types("view", "purchase")[0], None, EventsConfig(target="view"), "f.csv", Findings())
    assert with_target.success_types == []
    assert with_target.target_E.tolist() == [True, False]


def test_dislikes_are_never_taken_as_successes() -> None:
    found = meaning(types("dislike")[0], None, EVENTS, "f.csv", Findings())
    assert found.success_types == []
    assert not found.target_E.any()


def test_one_type_may_be_said_for_all_events() -> None:
    assert untyped(2, " Purchase").names == ["purchase"]
    assert untyped(2).names == ["history"]


@pytest.mark.parametrize("scale", [(1, 5, 4), (0, 100, 70), (-2, 2, 1), (0.5, 5, 4), (-1e308, 1e308, 0)])
def test_ratings_rise_from_the_lowest_to_one_and_successes_have_08(scale: tuple[float, float, float]) -> None:
    low, high, cut = scale
    rating = np.sort(np.append(np.random.default_rng(1).uniform(low / 2, high / 2, 50) * 2, [low, cut, high]))
    found = read_ratings(pa.chunked_array([rating]), "f.csv", Rating(column="r", success_from=cut), Findings())
    assert found is not None
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0.8) == (rating >= cut)).all()
    assert (found[0], found[-1]) == (pytest.approx(0.1), 1.0)
    assert found[np.searchsorted(rating, cut)] == pytest.approx(0.8)


def test_a_low_rating_may_speak_against_an_item() -> None:
    rating = Rating(column="r", success_from=4, lowest=-1)
    found = read_ratings(pa.chunked_array([[1, 4, 5, None]]), "f.csv", rating, Findings())
    assert found is not None
    np.testing.assert_allclose(found, [-1, 0.8, 1, np.nan])


def test_ratings_without_a_success_are_refused() -> None:
    findings = Findings()
    assert read_ratings(pa.chunked_array([[1, 3]]), "f.csv", Rating(column="r", success_from=4), findings) is None
    assert findings.faults == [
        "f.csv: column r reaches 3, so that no event is a success; lower weight.success_from (4)"
    ]
