"""The temporal split."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs.data.dataset import Interactions
from graphs.data.splits import temporal_split


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
