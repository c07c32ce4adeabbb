"""What each type of event means: how strongly it speaks for its item, whether it is a success, and for how long it
takes the item out of later answers. Training, evaluation and serving read the same configuration.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

UNTYPED = "history"
"""The type of the events of training data without event types."""

LEAST_SUCCESS, MOST_OF_OTHERS = 0.8, 0.79
"""The models tell a success by its strength: a success has at least the first, any other event at most the second."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"for (\d{1,9}(?:\.\d+)?) ?([smhdw])")


def seen_s(seen: str) -> float:
    """Seconds for which an event takes its item out of answers: 0, inf, or those of `for 30d`.

    Raises:
        ValueError: `seen` is none of the three.
    """
    if seen in ("never", "always"):
        return 0.0 if seen == "never" else math.inf
    if not (found := _SPAN.fullmatch(seen)):
        raise ValueError("must be never, always, or a time such as `for 30d` (s, m, h, d or w)")
    return float(found[1]) * _SECONDS[found[2]]


def _checked(seen: str) -> str:
    seen_s(seen)
    return seen


class EventType(BaseModel):
    """What the events of one type mean."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    weight: float = Field(0.5, ge=-1, le=1, strict=True)
    """How strongly an event without a weight of its own speaks for its item (> 0) or against it (< 0)."""
    success: bool = False
    """Whether it is a success: what the models learn to predict. Left out: it is, from a weight of 0.8 on."""
    seen: Annotated[str, AfterValidator(_checked)] = "never"
    """How long it takes its item out of the user's answers: `never`, `always`, or a time such as `for 30d`."""

    @model_validator(mode="before")
    @classmethod
    def _success_by_weight(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "success" not in given and isinstance(given.get("weight"), int | float):
            return {**given, "success": given["weight"] >= LEAST_SUCCESS}
        return given

    @model_validator(mode="after")
    def _success_speaks_for_its_item(self) -> EventType:
        if self.success and self.weight <= 0:
            raise ValueError(f"is a success with the weight {self.weight:g}; give it one above 0, or success: false")
        return self

    @property
    def strength(self) -> float:
        """The weight as the models read it."""
        return max(self.weight, LEAST_SUCCESS) if self.success else min(self.weight, MOST_OF_OTHERS)

    @property
    def seen_s(self) -> float:
        """Seconds for which an event takes its item out of answers: 0 never, inf always."""
        return seen_s(self.seen)


DEFAULT_TYPES: Mapping[str, Mapping[str, Any]] = {
    "view": {"weight": 0.4, "success": False, "seen": "never"},
    "click": {"weight": 0.5, "success": False, "seen": "never"},
    "cart": {"weight": 0.8, "success": True, "seen": "never"},
    "like": {"weight": 1.0, "success": True, "seen": "always"},
    "purchase": {"weight": 1.0, "success": True, "seen": "always"},
    "dislike": {"weight": -0.5, "success": False, "seen": "always"},
}


def _merged(given: Any) -> Any:
    """The types of a configuration over DEFAULT_TYPES, by lower-case name; a type keeps the fields it does not set, but
    a weight without `success` decides both."""
    if not isinstance(given, Mapping):
        return given
    merged: dict[str, Any] = {name: dict(fields) for name, fields in DEFAULT_TYPES.items()}
    for name, fields in given.items():
        key = str(name).strip().casefold()
        if isinstance(fields, Mapping):
            before = merged.get(key)
            kept = dict(before) if isinstance(before, Mapping) else {}
            if "weight" in fields:
                kept.pop("success", None)
            merged[key] = {**kept, **fields}
        else:
            merged[key] = fields
    return merged


class EventsConfig(BaseModel):
    """What events mean to the models and to the answers. An event's own weight, where it has one, comes first."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)

    types: Annotated[dict[str, EventType], BeforeValidator(_merged)] = DEFAULT_TYPES  # type: ignore[assignment]
    """Per type, in any case; merged with the default, so a type needs only the fields that differ."""
    other: EventType = EventType()
    """Of types that `types` does not name."""
    untyped: EventType = EventType(weight=1.0, success=True, seen="always")
    """Of training data without event types, such as ratings."""
    _against: EventsConfig | None = PrivateAttr(None)
    """Says, if there is one, how long events with a strength of 0 or less take their items out of answers."""
    target: str = ""
    """The one type that the models learn to predict, and the evaluation judges by. Empty: every success."""

    @model_validator(mode="after")
    def _target_is_known(self) -> EventsConfig:
        if self.target and key_of(self.target) not in self.types:
            raise ValueError(f"target {self.target!r} is none of the types ({', '.join(self.types)}); add it to types")
        return self

    def of(self, name: str) -> EventType:
        """The type called `name`, in any case."""
        key = key_of(name)
        return self.types.get(key) or (self.untyped if key == UNTYPED else self.other)

    def knows(self, name: str) -> bool:
        """Whether `types` has `name`, in any case."""
        return key_of(name) in self.types

    def is_target(self, name: str) -> bool:
        """Whether `name` is the type that the models learn to predict; False without `target`."""
        return bool(self.target) and key_of(name) == key_of(self.target)

    def with_successes(self, names: Collection[str]) -> EventsConfig:
        """This configuration with the types `names` as successes too: a model may be trained on data without any."""
        return self._changed(names, {"success": True})

    def with_repeats(self, names: Collection[str]) -> EventsConfig:
        """This configuration with items staying in answers after events of the types `names` that speak for them: a
        model may be trained on data of users who repeat the same items."""
        repeating = self._changed(names, {"seen": "never"})
        repeating._against = self
        return repeating

    def seen_s(self, name: str, strength: float) -> float:
        """Seconds for which an event of this type and strength takes its item out of answers: 0 never, inf always."""
        config = self if strength > 0 or self._against is None else self._against
        return config.of(name).seen_s

    def _changed(self, names: Collection[str], update: Mapping[str, Any]) -> EventsConfig:
        changed = {key: self.of(key).model_copy(update=dict(update)) for key in map(key_of, names)}
        return self.model_copy(update={"types": {**self.types, **changed}})


@functools.lru_cache(4096)
def key_of(name: str) -> str:
    """The one spelling of a type's name."""
    return name.strip().casefold()
