"""The temporal split."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import DataError
from graphs.data.dataset import Interactions
from graphs.data.repeats import ENOUGH_USERS
from graphs.data.splits import Split, ranking_split, temporal_split
from tests.support.interactions import interactions


@st.composite
def event_lists(draw: st.DrawFn) -> Interactions:
    rows = draw(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(0, 9), st.sampled_from([0.2, 0.8, 1.0])),
                 min_size=1, max_size=80)
    )  # fmt: skip
    user, item, time, weight = (np.array(column) for column in zip(*sorted(rows), strict=True))
    order = np.lexsort((item, time, user))
    return Interactions.untyped(
        user[order].astype(np.int32), item[order].astype(np.int32), time[order].astype(np.float64),
        weight[order].astype(np.float32),
    )  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(event_lists())
def test_the_split_takes_each_users_last_fifth_of_successes_and_nothing_after_the_cut_is_trained_on(
    events: Interactions,
) -> None:
    train, test = temporal_split(events)
    assert test.success_E.all()
    for user in np.unique(events.user_E):
        total = int(events.success_E[events.user_E == user].sum())
        held = int((test.user_E == user).sum())
        assert held == (max(1, round(total * 0.2)) if total >= 5 else 0)
        if held:
            first = test.timestamp_E[test.user_E == user].min()
            assert (train.timestamp_E[train.user_E == user] <= first).all()
            assert int(train.success_E[train.user_E == user].sum()) == total - held
        else:
            assert (train.user_E == user).sum() == (events.user_E == user).sum()


@settings(deadline=None, max_examples=200)
@given(event_lists())
def test_at_one_time_nobodys_future_is_trained_on_and_the_users_own_past_is_known(events: Interactions) -> None:
    try:
        split = Split.choose("time", events)
    except DataError:
        assert len(np.unique(events.timestamp_E[events.target_E])) <= 1
        return
    parts = split(events)
    assert (parts.train.timestamp_E < split.at).all()
    assert len(parts.train) == (events.timestamp_E < split.at).sum()
    assert parts.train.target_E.any(), "there is something to learn"
    assert (parts.test.timestamp_E >= split.at).all()
    assert parts.test.target_E.all()
    wanted = np.unique(events.user_E[events.target_E & (events.timestamp_E >= split.at)])
    assert len(np.unique(parts.test.user_E)) + parts.cold_users == len(wanted)
    for user in np.unique(parts.test.user_E):
        first = parts.test.timestamp_E[parts.test.user_E == user].min()
        own = parts.history.user_E == user
        assert own.sum() > 0
        assert (parts.history.timestamp_E[own] <= first).all()
        assert own.sum() >= ((events.user_E == user) & (events.timestamp_E < first)).sum()


def test_the_time_leaves_about_a_fifth_of_the_targets_after_it() -> None:
    events = interactions([(user, item, 10.0 * item) for user in range(30) for item in range(10)])
    split = Split.choose("time", events)
    assert split.at == 80.0
    assert str(split) == "the targets of all users from 1970-01-01T00:01:20 UTC on"


def test_targets_of_one_time_can_not_be_divided_by_time() -> None:
    with pytest.raises(DataError, match=r"all targets have the same timestamp.*--split user"):
        Split.choose("time", interactions([(0, 0, 5.0), (1, 1, 5.0)]))


def purchases(users_by_count: dict[int, int], views: int = 3) -> Interactions:
    """So many users with so many targets each, after some views."""
    counts = [count for count, users in users_by_count.items() for _ in range(users)]
    rows = [(user, item, float(item)) for user, count in enumerate(counts) for item in range(views + count)]
    events = interactions(rows)
    return dataclasses.replace(events, target_E=events.item_E >= views)


@pytest.mark.parametrize(
    ("users_by_count", "least"),
    [
        ({5: ENOUGH_USERS, 2: 1000}, 5),
        ({5: ENOUGH_USERS - 1, 4: 1}, 4),
        ({5: 50, 3: 150, 2: 500}, 3),
        ({2: 60, 1: 500}, 2),
    ],
)
def test_where_few_users_have_many_targets_fewer_are_enough_to_be_judged(
    users_by_count: dict[int, int], least: int
) -> None:
    events = purchases(users_by_count)
    split = Split.choose("user", events)
    assert split.least == least
    assert len(np.unique(split(events).test.user_E)) == sum(n for count, n in users_by_count.items() if count >= least)
    assert ("fewer than 200 users have 5" in str(split)) == (least < 5)


def test_the_ranking_model_learns_from_users_with_a_single_target_where_most_have_no_more() -> None:
    early, late = ranking_split(purchases({5: 10, 1: 90}))
    assert len(np.unique(late.user_E)) == 100
    assert set(np.unique(early.user_E)) >= set(np.unique(late.user_E)), "each has something before it"


def test_a_first_event_is_never_asked_for() -> None:
    early, late = ranking_split(purchases({1: 20}, views=0))
    assert (len(early), len(late)) == (20, 0)


def test_the_split_of_an_artifact_is_that_of_its_settings() -> None:
    split = Split("time", 1, 123.5)
    assert Split.of({"split": split.settings()}) == split
    assert Split.of({}) == Split("user", 5), "artifacts without the entry"
