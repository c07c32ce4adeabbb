"""The ranking model's inputs, in order. feature_kernels.py computes them in this order; schema.json keeps it.

To add a group, give it a place here and fill its columns at that place in the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from deployments.models.features.transforms import STRICT, Column, Source, attribute_names, content_names

SUMMARY_DECAYS = {"short": 5.0, "long": 30.0}
"""Decays of the history summaries, in events."""

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
    return tuple(inputs)
