"""What the types of events mean."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from deployments.store.event_types import EventsConfig, EventType


def test_types_are_merged_with_the_defaults_field_by_field_and_in_any_case() -> None:
    events = EventsConfig.model_validate({"types": {" Cart": {"weight": 0.9}, "PLAY": {"weight": 1.0}}})
    assert events.of("cart") == EventType(weight=0.9, success=True, seen="never")
    assert events.of("Purchase").seen_s == math.inf, "the types that the configuration does not name are as before"
    assert events.of("Play").success, "a weight of 0.8 or more makes a new type a success"
    assert events.knows("play")
    assert not events.knows("skip")
    assert events.of("skip") == events.other


def test_a_cart_speaks_more_for_its_item_than_a_click_and_a_purchase_ends_its_answers() -> None:
    events = EventsConfig()
    strength = {name: events.of(name).strength for name in ("dislike", "view", "click", "cart", "purchase")}
    assert list(strength.values()) == sorted(strength.values())
    assert [events.of(name).seen_s for name in ("view", "cart", "purchase")] == [0, 0, math.inf]


@pytest.mark.parametrize(
    ("given", "strength"), [({"weight": 0.3, "success": True}, 0.8), ({"weight": 1.0, "success": False}, 0.79)]
)
def test_the_models_tell_a_success_by_its_strength(given: dict[str, object], strength: float) -> None:
    assert EventType.model_validate(given).strength == strength


@pytest.mark.parametrize(("weight", "strength"), [(-1, -1.0), (0.3, 0.3), (0.9, 0.9)])
def test_a_weight_without_success_decides_whether_a_default_type_is_one(weight: float, strength: float) -> None:
    types = EventsConfig.model_validate({"types": {"Purchase": {"weight": weight}, "view": {"weight": weight}}})
    for name in ("purchase", "view"):
        assert types.of(name).strength == strength
        assert types.of(name).success == (weight >= 0.8)
    assert types.of("purchase").seen == "always", "the other fields are as before"
    assert EventsConfig.model_validate({"types": {"X": None, "x": {"weight": weight}}}).of("x").strength == strength


@pytest.mark.parametrize("given", [{"weight": "0.9"}, {"weight": True}, {"weight": -0.5, "success": True}])
def test_a_weight_that_is_no_number_or_a_success_against_its_item_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"valid number|is a success with the weight -0\.5"):
        EventType.model_validate(given)


@pytest.mark.parametrize(
    ("seen", "seconds"), [("for 30d", 2_592_000.0), ("for 1.5h", 5400.0), ("for 2 w", 1_209_600.0)]
)
def test_an_event_may_take_its_item_out_for_a_time(seen: str, seconds: float) -> None:
    assert EventType(seen=seen).seen_s == seconds


@pytest.mark.parametrize("seen", ["30d", "for ever", "for -1d", "Never", "for 3 y", ""])
def test_another_word_is_refused_with_the_words_that_are_taken(seen: str) -> None:
    with pytest.raises(ValidationError, match="never, always, or a time such as `for 30d`"):
        EventType(seen=seen)


def test_an_unknown_target_is_refused_and_a_known_one_is_found_in_any_case() -> None:
    with pytest.raises(ValidationError, match="target 'order' is none of the types"):
        EventsConfig(target="order")
    events = EventsConfig(target="Purchase")
    assert [events.is_target(name) for name in ("purchase", "PURCHASE", "like")] == [True, True, False]


def test_a_type_may_be_taken_as_a_success_besides() -> None:
    events = EventsConfig().with_successes(["view", "stream"])
    assert [events.of(name).strength for name in ("View", "stream", "purchase", "click")] == [0.8, 0.8, 1.0, 0.5]
    assert events.of("view").seen == "never"
