"""Filters of a request: validated against the catalogue's columns, and applied to its items.

Shapes: N items.
"""

from __future__ import annotations

import bisect
import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from deployments.artifact.columns import Column, LabelColumn, NumberColumn
from deployments.errors import InvalidRequest
from deployments.messages import PAD, Bools, Filter

_MAX_QUOTED = 64
"""Characters of a caller's string that an error message repeats."""

_MAX_COMPARED = 1000
"""Values that a misspelt one is compared with."""


_MOST_LISTED = 100
"""Values of an attribute that the schema lists."""

_FORMATS = {"date": "date", "timestamp": "date-time"}


def parse_filters(columns: Mapping[str, Column], filters: Mapping[str, object]) -> Filter:
    """See `Catalogue.validate`."""
    errors: list[tuple[str, str]] = []
    one_of: dict[str, tuple[str, ...]] = {}
    between: dict[str, tuple[float, float]] = {}
    for name, clause in filters.items():
        column = columns.get(name)
        try:
            if column is None:
                raise ValueError(f"no such attribute; the catalogue has: {', '.join(columns) or 'none'}")
            if isinstance(column, NumberColumn):
                between[name] = _interval(column, clause)
            else:
                one_of[name] = _accepted_values(column, clause)
        except ValueError as error:
            errors.append((f"filters.{name[:_MAX_QUOTED]}", str(error)))
    if errors:
        raise InvalidRequest(errors)
    return Filter(tuple(sorted(one_of.items())), tuple(sorted(between.items())))


def filter_schema(columns: Mapping[str, Column]) -> dict[str, Any]:
    """What `parse_filters` accepts, as JSON Schema; the values of an attribute are listed if they are few."""

    def of(column: Column) -> dict[str, Any]:
        if isinstance(column, NumberColumn):
            bound: dict[str, Any] = {"type": "number"}
            if column.unit != "number":
                bound = {"anyOf": [bound, {"type": "string", "format": _FORMATS[column.unit]}]}
            bounds = {"gte": bound, "lte": bound}
            return {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": bounds}
        value: dict[str, Any] = {"type": "boolean" if column.is_bool else "string"}
        if not column.is_bool and len(column.values) <= _MOST_LISTED:
            value["enum"] = list(column.values)
        return {"anyOf": [value, {"type": "array", "minItems": 1, "items": value}]}

    return {"additionalProperties": False, "properties": {name: of(column) for name, column in columns.items()}}


def passing_items(columns: Mapping[str, Column], n_items: int, condition: Filter) -> Bools:
    """Read-only bool [N], True where the item passes. An unknown value passes no clause."""
    passes_N = np.ones(n_items, np.bool_)
    for name, values in condition.one_of:
        column = columns[name]
        assert isinstance(column, LabelColumn)
        accepted_U = np.zeros(len(column.values) + 1, np.bool_)  # the last: values that no item has
        accepted_U[[column.code(value) for value in values]] = True
        accepted_U[-1] = False
        matches_N = np.zeros(n_items, np.bool_)
        matches_N[column.owner_V[accepted_U[column.codes_V]]] = True
        passes_N &= matches_N
    for name, (low, high) in condition.between:
        column = columns[name]
        assert isinstance(column, NumberColumn)
        passes_N &= (column.values_N >= low) & (column.values_N <= high)
    passes_N.setflags(write=False)
    return passes_N


def _interval(column: NumberColumn, clause: object) -> tuple[float, float]:
    example = '{"gte": 1990, "lte": 1999}' if column.unit == "number" else '{"gte": "1990-01-31"}'
    expected = f"must be an object with gte and/or lte, e.g. {example}"
    if not isinstance(clause, Mapping) or not clause or not clause.keys() <= {"gte", "lte"}:
        raise ValueError(expected)
    bounds = {name: _bound(column, name, bound) for name, bound in clause.items()}
    low, high = bounds.get("gte", -math.inf), bounds.get("lte", math.inf)
    if low > high:
        raise ValueError(f"gte {low:g} is greater than lte {high:g}; no item can pass")
    return low, high


def _bound(column: NumberColumn, name: str, bound: object) -> float:
    if isinstance(bound, int | float) and not isinstance(bound, bool) and abs(bound) <= sys.float_info.max:
        return float(bound)
    if column.unit == "number":
        raise ValueError(f"{name} must be a finite number")
    try:
        moment = datetime.fromisoformat(bound) if isinstance(bound, str) else None
        if moment:
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be Unix seconds, or a date or time in ISO 8601, e.g. 1990-01-31")


def _accepted_values(column: LabelColumn, clause: object) -> tuple[str, ...]:
    if column.is_bool:
        given = clause if isinstance(clause, list | tuple) else [clause]
        if not given or not all(isinstance(value, bool) for value in given):
            raise ValueError("must be true or false")
        return tuple(sorted({"true" if value else "false" for value in given}))
    values = [clause] if isinstance(clause, str) else clause
    if not isinstance(values, list | tuple) or not values:
        raise ValueError("must be a string or a list of at least one string")
    for value in values:
        if not isinstance(value, str):
            raise ValueError("must be a string or a list of strings")
        if column.code(value) == PAD:
            quoted = value[:_MAX_QUOTED]
            raise ValueError(f"no item has the value {quoted!r}; {_suggestions(column.values, quoted)}")
    return tuple(sorted(set(values)))


def _suggestions(values: Sequence[str], value: str) -> str:
    """Up to ten values close to `value`; its neighbours in order if there are too many to compare."""
    at = bisect.bisect_left(values, value)
    compared = values if len(values) <= _MAX_COMPARED else values[max(0, at - 5) : at + 5]
    close = difflib.get_close_matches(value, compared, n=10, cutoff=0.5)
    shown = ", ".join(repr(v[:_MAX_QUOTED]) for v in close or compared[:10])
    return f"close: {shown}" if close else f"known: {shown or 'none'}"
