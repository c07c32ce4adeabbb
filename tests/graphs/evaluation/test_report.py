"""The report says what its figures rest on."""

from __future__ import annotations

from typing import Any

import pytest

from graphs.evaluation.report import sentences


def result(**judged: Any) -> dict[str, Any]:
    return {
        "test_users": 1000,
        "test_events": 3000,
        "split": "the targets of all users from some day on",
        "judged": {"share_of_users": 0.5, "drawn_from": 1000, "answerable": 0.9, "nothing_left": 0, "cold_users": 0},
        "candidates": {"recall": 0.6, "recall@100": 0.5, "ceiling": 0.7, "per_request": 300.0},
    } | judged


def test_it_says_who_is_judged_and_what_is_the_ceiling() -> None:
    who, candidates = sentences(result())
    assert who == (
        "Judged: 1,000 users (50.0% of all) by 3,000 events: the targets of all users from some day on. 90.0% of their "
        "items may be answered at all."
    )
    assert candidates.endswith("The ceiling: in the ideal order their NDCG@10 is 0.7000.")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"figures_of": "the unrefitted twin"}, "These are the figures of the unrefitted twin."),
        ({"test_users": 199}, "WARNING: fewer than 200 users are judged, so chance moves these figures a lot."),
        ({"judged": {"nothing_left": 1234}}, "1,234 test users are not judged: what they had before takes all their"),
        ({"judged": {"cold_users": 7}}, "7 test users are not judged: nothing is known of them before"),
        ({"judged": {"drawn_from": 25_000}}, "They are drawn from 25,000."),
        ({"left_out": {"ease": "it needs too much"}}, "The baseline ease is left out: it needs too much."),
    ],
)
def test_each_limit_of_the_figures_is_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    given = result()
    given |= changes | {"judged": given["judged"] | changes.get("judged", {})}
    assert not any(sentence in each for each in sentences(result()))
    assert any(sentence in each for each in sentences(given))
