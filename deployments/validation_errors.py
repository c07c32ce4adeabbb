"""pydantic's validation errors, field by field, for one-sentence messages."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError


class FieldError(NamedTuple):
    """What is wrong with one field."""

    field: str
    """Dotted path; empty: the whole input."""
    message: str
    value: str | None
    """The rejected value as Python writes it; None for an unknown or a missing field."""


def field_errors(error: ValidationError, unknown: str, missing: str, most: int | None = None) -> list[FieldError]:
    """The first `most` errors, or all, in pydantic's order. `unknown` and `missing`: the messages for such fields."""
    found = []
    for each in error.errors(include_url=False)[:most]:
        field = ".".join(_on_one_line(str(part)) for part in each["loc"])
        if each["type"] == "extra_forbidden":
            found.append(FieldError(field, unknown, None))
        elif each["type"] == "missing":
            found.append(FieldError(field, missing, None))
        else:
            found.append(FieldError(field, each["msg"], repr(each["input"])))
    return found


def _on_one_line(key: str) -> str:
    """A caller's key, with what can't be printed as Python escapes it."""
    return key if key.isprintable() else repr(key)[1:-1]
