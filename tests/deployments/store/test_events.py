"""Events, and the message that the stages read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.messages import HistoryBatch
from deployments.store.event_types import EventsConfig, EventType
from deployments.store.events import Event, Histories, history_batch, user_histories

NOW = 1000.0
CATALOGUE = {"a": 0, "b": 1, "c": 2}


def positions(item_ids: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.array([CATALOGUE.get(i, -1) for i in item_ids], np.int64)


def histories(*users: Sequence[Event]) -> Histories:
    events = [e for user in users for e in user]
    return Histories.decode(
        [f"u{n}" for n in range(len(users))],
        [len(user) for user in users],
        [e.member() for e in events],
        [e.timestamp for e in events],
    )


def batch(*users: Sequence[Event]) -> HistoryBatch:
    config = EventsConfig(other=EventType(weight=0.25))
    rows = user_histories(histories(*users), positions, config)
    return history_batch(rows, "v1", np.zeros((len(users), 0), np.float32), now=NOW)


def test_rows_are_oldest_first_padded_at_the_end_and_without_unknown_items() -> None:
    out = batch(
        [Event("1", "u0", "c", "like", 1.5), Event("2", "u0", "gone", "like", 2.5), Event("3", "u0", "a", "like", 3.5)],
        [],
        [Event("4", "u2", "gone", "like", 1.0)],
        [Event("5", "u3", "b", "like", 9.0)],
    )
    assert out.model_version == "v1"
    assert out.item_BH.tolist() == [[2, 0], [-1, -1], [-1, -1], [1, -1]]
    assert out.timestamp_BH.tolist() == [[1.5, 3.5], [0, 0], [0, 0], [9.0, 0]]
    assert (out.item_BH.dtype, out.timestamp_BH.dtype, out.weight_BH.dtype) == (np.int32, np.float64, np.float32)


def test_a_weight_is_that_of_the_event_else_of_its_type_else_the_default() -> None:
    out = batch(
        [
            Event("1", "u", "a", "like", 1.0, weight=-2.0),
            Event("2", "u", "a", "like", 2.0),
            Event("3", "u", "a", "other", 3.0),
            Event("4", "u", "a", "like", 4.0, weight=0.0),
        ]
    )
    assert out.weight_BH.tolist() == [[-2.0, 1.0, 0.25, 0.0]]


@pytest.mark.parametrize("rows", [0, 3])
def test_users_without_history_have_one_padded_column(rows: int) -> None:
    assert batch(*[[]] * rows).item_BH.tolist() == [[-1]] * rows


_events = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "gone"]), st.floats(-1e9, 1e10)), max_size=6)


@given(st.lists(_events, max_size=5))
def test_a_batch_equals_its_users_one_by_one(users: list[list[tuple[str, float]]]) -> None:
    rows = [[Event(str(n), "u", item, "like", t) for n, (item, t) in enumerate(user)] for user in users]
    together = batch(*rows)
    for b, row in enumerate(rows):
        alone, width = batch(row), batch(row).item_BH.shape[1]
        assert together.item_BH[b, :width].tolist() == alone.item_BH[0].tolist()
        assert together.timestamp_BH[b, :width].tolist() == alone.timestamp_BH[0].tolist()
        assert (together.item_BH[b, width:] == -1).all()


_text = st.text(st.characters(exclude_characters="\0", exclude_categories=()), max_size=5)


_number = st.floats(allow_nan=False, allow_infinity=False)
_event = st.builds(Event, _text, st.just("u"), _text, _text, _number, st.none() | _number, _text)


@given(st.lists(st.lists(_event, max_size=3), max_size=4))
def test_events_of_many_users_are_read_back_as_they_were_written(users: list[list[Event]]) -> None:
    found = histories(*users)
    for row, events in enumerate(users):
        assert found.events(row) == [replace(event, user_id=f"u{row}") for event in events]


@pytest.mark.parametrize(
    "fields",
    [{"item_id": "a\0"}, {"event_type": "\0"}, {"timestamp": float("nan")}, {"weight": float("inf")}],
)
def test_an_event_that_could_not_be_read_back_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="event 'e'"):
        Event(**{"event_id": "e", "user_id": "u", "item_id": "a", "event_type": "t", "timestamp": 1.0} | fields)  # type: ignore[arg-type]


def test_an_event_that_is_also_in_the_artifacts_histories_counts_once() -> None:
    posted = Event("e-1", "u", "a", "like", 5.0, request_id="r")
    exported = Event("history-5.0", "u", "a", "history", 5.0, weight=1.0)
    out = batch([Event("0", "u", "b", "like", 5.0), posted, exported, Event("2", "u", "a", "like", 6.0)], [exported])
    assert out.item_BH.tolist() == [[1, 0, 0], [0, -1, -1]]
    assert out.timestamp_BH[0].tolist() == [5.0, 5.0, 6.0]


def test_events_of_two_types_on_an_item_at_once_are_both_kept() -> None:
    events = [Event("1", "u", "a", "view", 5.0), Event("2", "u", "a", "cart", 5.0), Event("3", "u", "a", "Cart", 5.0)]
    rows = user_histories(histories(events, []), positions, EventsConfig(), ["cart", "view"])
    assert rows[0].type_H.tolist() == [1, 0]
    out = history_batch(rows, "v1", np.zeros((2, 0), np.float32), now=65.0, typed=True)
    assert out.type_BY.tolist() == [[1, 0], [-1, -1]]
    assert out.age_BY.tolist() == [[60.0, 60.0], [0.0, 0.0]]


def test_an_event_takes_its_item_out_of_answers_for_as_long_as_its_type_says() -> None:
    config = EventsConfig(types={"play": EventType(seen="for 10s")})
    events = [
        Event("1", "u", "a", "play", NOW - 11),
        Event("2", "u", "b", "play", NOW - 9),
        Event("3", "u", "a", "view", NOW - 3),
        Event("4", "u", "c", "purchase", NOW - 1),
    ]
    rows = user_histories(histories(events, []), positions, config)
    out = history_batch(rows, "v1", np.zeros((2, 0), np.float32), now=NOW)
    assert out.seen_BH.tolist() == [[False, True, False, True], [False] * 4]


def test_an_event_against_an_item_takes_it_out_of_answers_also_where_its_type_may_repeat() -> None:
    config = EventsConfig().with_repeats(["history"])
    own = [Event("1", "u", "a", "history", 1.0, weight=0.9), Event("2", "u", "b", "history", 2.0, weight=-0.5)]
    rows = user_histories(histories(own), positions, config)
    out = history_batch(rows, "v1", np.zeros((1, 0), np.float32), now=NOW)
    assert out.seen_BH.tolist() == [[False, True]]
