"""The ranking model's inputs, in order. feature_kernels.py computes them in this order; schema.json keeps it.

To add a group, give it a place here and fill its columns at that place in the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from deployments.models.features.transforms import STRICT, Column, MultiHot, Source, attribute_names, content_names

SUMMARY_DECAYS = {"short": 5.0, "long": 30.0}
"""Decays of the history summaries, in events."""

_USER_SHARE = "user_share:"

STATISTICS = ("popularity", "quality")
"""Item statistics that are attributes: log of the successes, and the mean weight. They are the last attributes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankerInput:
    """One number per candidate."""

    __pydantic_config__: ClassVar = STRICT

    name: str
    source: Source
    per: Literal["candidate", "user", "item"]
    """`user`: it is the same for all candidates of a request. `item`: for all requests."""


def ranker_inputs(columns: Sequence[Column]) -> tuple[RankerInput, ...]:
    """The inputs that follow from the models' columns."""

    item, user = [c for c in columns if c.source == "item"], [c for c in columns if c.source == "user"]
    own = attribute_names(item)
    attributes: list[tuple[str, Source]] = [(name, "item") for name in own]
    attributes += [(name, "item_statistic") for name in STATISTICS]
    inputs: list[RankerInput] = []

    def add(per: Literal["candidate", "user", "item"], source: Source, *names: str) -> None:
        inputs.extend(RankerInput(name=name, source=source, per=per) for name in names)

    add("candidate", "source_score", *(f"score:{c.name}" for c in columns if c.source == "source_score"))
    for decay in SUMMARY_DECAYS:
        add("candidate", "history", f"content_liked:{decay}", f"content_contrast:{decay}")
        add("candidate", "history", *(f"difference:{name}:{decay}" for name, _ in attributes))
        add("candidate", "history", *(f"distance:{name}:{decay}" for name in own))
        add("user", "history", *(f"user_mean:{name}:{decay}" for name, _ in attributes), f"user_success:{decay}")
    add("user", "history", "user_events")
    add("user", "user", *(f"user:{name}" for name in (*content_names(user), *attribute_names(user))))
    for name, source in attributes:
        add("item", source, f"item:{name}")
    add("item", "item_statistic", "item:log_events")
    if (types := event_types(columns)) is not None:
        for name in own_event_names(types):
            add("user" if name.startswith(_USER_SHARE) else "candidate", "history", name)
    return tuple(inputs)


def event_types(columns: Sequence[Column]) -> tuple[str, ...] | None:
    """The types of events that the features of the user's own events tell apart. None: there are no such features,
    because no answer contains an item of the user's history."""
    history = {column.name: column.transform for column in columns if column.source == "history"}
    if "age" not in history:
        return None
    types = history.get("type")
    return types.values if isinstance(types, MultiHot) else ()


def own_event_names(types: Sequence[str]) -> list[str]:
    """Names of the features of the user's events on the candidate, 0 without any, in order:

    - `own:recency:DECAY`: exp(-age / decay) of the last one
    - `own:count`: log(1 + their number)
    - `own:strongest`, `own:last`: weight of the strongest, and of the last one
    - `own:hours`: 1 - log(1 + hours since the last one) / log(1 + hours in 90 days), at least 0
    - `own:type:TYPE`: log(1 + sum of exp(-age / long)) over those of this type
    - `user_share:TYPE`: the share of this type in the whole history, by exp(-age / long)
    """
    names = [*(f"own:recency:{decay}" for decay in SUMMARY_DECAYS), "own:count", "own:strongest", "own:last"]
    names += ["own:hours", *(f"own:type:{name}" for name in types)]
    return [*names, *(f"{_USER_SHARE}{name}" for name in types)]
