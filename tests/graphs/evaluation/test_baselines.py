"""The baselines: the same answers whichever way they are computed, and none that exhausts the memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deployments.messages import Floats
from graphs.data.dataset import Interactions
from graphs.data.splits import Parts
from graphs.evaluation import baselines
from graphs.evaluation.baselines import BaselineData, LeftOut, Scores
from tests.support.interactions import interactions


@pytest.fixture
def events() -> Interactions:
    rng = np.random.default_rng(5)
    rows = [(u, int(i), float(t)) for u in range(6) for t, i in enumerate(rng.permutation(12)[:8])]
    return dataclasses.replace(interactions(rows), weight_E=rng.choice([0.4, 0.8, 1.0], len(rows)).astype(np.float32))


def data(events: Interactions, history: Interactions | None = None, n_items: int = 12) -> BaselineData:
    """Users 0 to 5, judged by `history` (the training part by default)."""
    return BaselineData(Parts(events, history or events, events), n_items, np.arange(6))


def scores(found: Scores, users: int = 6) -> Floats:
    return found(slice(0, users))


def test_ease_is_the_same_in_the_users_and_in_the_items_dimension(
    events: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_users = scores(baselines.fit("ease", data(events)))
    history = dataclasses.replace(events, weight_E=events.weight_E.copy())  # equal, but not the training part itself
    np.testing.assert_allclose(scores(baselines.fit("ease", data(events, history))), by_users, atol=1e-6)
    padded = Interactions.concat([events, interactions([(user, 0, 0.0) for user in range(25)])])
    padded = dataclasses.replace(padded, weight_E=np.append(events.weight_E, np.zeros(25)).astype(np.float32))
    # 25 users more, without evidence, make the items the smaller dimension.
    np.testing.assert_allclose(scores(baselines.fit("ease", data(padded, events))), by_users, atol=1e-6)


@pytest.mark.parametrize("name", ["item_knn", "als", "popularity"])
def test_a_history_that_goes_on_changes_the_scores_of_its_user_alone(
    events: Interactions, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = events.take((events.user_E != 3) | (events.timestamp_E < 4))
    longer = Interactions.concat([train, events.take((events.user_E == 3) & (events.timestamp_E >= 4))])
    if name == "als":  # that of MovieLens leaves nothing of so few events
        monkeypatch.setattr(baselines, "TUNED", {name: dict(baselines.TUNED[name]) | {"regularisation": 0.1}})
    longer = longer.take(np.lexsort((longer.item_E, longer.timestamp_E, longer.user_E)))
    copied = dataclasses.replace(train, weight_E=train.weight_E.copy())
    before = scores(baselines.fit(name, data(train, copied)))
    after = scores(baselines.fit(name, data(train, longer)))
    changed = np.abs(after - before).max(axis=1) > 1e-6
    assert changed.tolist() == [False, False, False, name != "popularity", False, False]


def test_recent_answers_own_items_latest_first_then_the_popular_ones() -> None:
    events = interactions([(0, 3, 1), (0, 1, 2), (0, 3, 3), (1, 2, 1), (2, 2, 1), (2, 4, 2)])
    events = dataclasses.replace(events, seen_s_E=np.zeros(len(events)))
    shown = scores(baselines.fit("recent", BaselineData(Parts(events, events, events), 6, np.arange(3))), users=3)
    assert np.argsort(-shown[0], kind="stable")[:3].tolist() == [3, 1, 2]


def test_recent_is_a_baseline_where_items_may_come_again(events: Interactions) -> None:
    assert "recent" not in baselines.methods(data(events))
    again = dataclasses.replace(events, seen_s_E=np.where(events.item_E == 2, 0.0, np.inf))
    assert "recent" in baselines.methods(data(again))


@pytest.mark.parametrize("name", ["ease", "item_knn", "als"])
def test_a_baseline_that_needs_too_much_memory_is_left_out_before_it_allocates_any(
    events: Interactions, name: str
) -> None:
    huge = dataclasses.replace(events, user_E=events.user_E * 1_000_000)
    with pytest.raises(LeftOut, match=r"it needs about [\d.]+ GB of memory, more than 2\.5"):
        baselines.fit(name, BaselineData(Parts(huge, huge, huge), 1_000_000, np.unique(huge.user_E)))


def test_events_against_an_item_never_speak_for_it() -> None:
    events = interactions([(0, 0, 1), (0, 1, 2)])
    events = dataclasses.replace(events, weight_E=np.array([-0.5, 0.4], np.float32))
    for weighting in (("success", 0.5), ("weight", 2), ("success_weight", 3)):
        assert baselines.matrix(events, 2, weighting).toarray()[0, 0] == 0  # type: ignore[arg-type]
