"""What the columns of the events say besides who, which item and when: types, weights, ids of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.api.schemas import CONTROL_CHARACTERS, MOST_LABEL_CHARACTERS
from deployments.messages import Array, Bools, Floats, Shorts, Times
from deployments.store.event_types import LEAST_SUCCESS, MOST_OF_OTHERS, UNTYPED, EventsConfig
from graphs.data.arrow_values import is_text, plain, to_float
from graphs.data.data_file import Rating
from graphs.data.findings import Findings, counted, listed, near, shown

OTHER = "other"
"""The type of events whose own is empty or can't be one."""

MOST_TYPES = 1000


class Types(NamedTuple):
    """Types of events."""

    names: list[str]
    """Lower case, in the order of their first events."""
    code_E: Shorts


def untyped(count: int, name: str = "") -> Types:
    """`count` events without a column of types. `name`: the type of them all, if there is one."""
    return Types([name.strip().casefold() or UNTYPED], np.zeros(count, np.int16))


def read_types(column: pa.ChunkedArray, file: str, name: str, findings: Findings) -> Types | None:
    """The types of a column; None after a fault."""
    try:
        array = plain(column)
        if not is_text(array.type):
            array = array.cast(pa.large_string())
    except (pa.ArrowException, NotImplementedError):
        findings.fault(f"{file}: column {name} is {column.type}; it should hold types of events as text, such as view")
        return None
    encoded = array.dictionary_encode()
    if len(encoded.dictionary) > MOST_TYPES:
        findings.fault(
            f"{file}: column {name} has {len(encoded.dictionary):,} different values, such as "
            f"{shown(encoded.dictionary[0].as_py())}; it should hold types of events, at most {MOST_TYPES:,}"
        )
        return None
    given = encoded.dictionary.to_pylist()
    cleaned = [each.strip().casefold() for each in given]
    bad_U = pc.match_substring_regex(pa.array(cleaned, pa.string()), CONTROL_CHARACTERS).to_pylist()
    bad_U = [bad or not 0 < len(each) <= MOST_LABEL_CHARACTERS for bad, each in zip(bad_U, cleaned, strict=True)]
    names: dict[str, int] = {}
    code_U = [names.setdefault(OTHER if bad else each, len(names)) for bad, each in zip(bad_U, cleaned, strict=True)]
    code_E = encoded.indices.fill_null(len(given)).to_numpy(zero_copy_only=False)
    lost = int(np.append(bad_U, True)[code_E].sum())
    if lost:
        findings.note(f"{file}: column {name} has no type of 1 to {MOST_LABEL_CHARACTERS} characters in "
                      f"{counted(lost, 'row')}; they count as `{OTHER}`")  # fmt: skip
    code_U.append(names.setdefault(OTHER, len(names)) if array.null_count else 0)
    return Types(list(names) or [OTHER], np.array(code_U, np.int16)[code_E])


def describe_types(types: Types, config: EventsConfig, file: str, findings: Findings) -> None:
    """Notes the types with their counts and meanings, and names those that the configuration does not know."""
    count_T = np.bincount(types.code_E, minlength=len(types.names))
    order = np.argsort(-count_T, kind="stable").tolist()
    meanings = [(types.names[t], int(count_T[t]), config.of(types.names[t])) for t in order if count_T[t]]
    told = [f"{n} {c:,} (weight {k.strength:g}{', success' if k.success else ''})" for n, c, k in meanings]
    findings.note(f"{file}: types of events: {listed(told)}")
    unknown = [
        f"{shown(name)} ({counted(count, 'event')}" + (f"; did you mean {close}?)" if close else ")")
        for name, count, _ in meanings
        if not config.knows(name) and name != OTHER
        for close in [near(name, config.types)]
    ]
    if unknown:
        findings.note(
            f"{file}: types that events.types of the configuration does not name: {listed(unknown)}; they count as "
            f"`other` (weight {config.other.strength:g}{', success' if config.other.success else ''})"
        )


def read_weights(column: pa.ChunkedArray, file: str, name: str, findings: Findings) -> Times | None:
    """The column `weight` [E], NaN where the type's applies; None after a fault."""
    value_E = _numbers(column, file, name, "numbers in [-1, 1]", findings)
    if value_E is None:
        return None
    wrong_E = np.abs(value_E) > 1  # NaN is not
    if wrong_E.any():
        row = int(np.argmax(wrong_E))
        findings.fault(
            f"{file}: column {name} reaches {value_E[np.nanargmax(np.abs(value_E))]:g}, the first beyond is "
            f"{value_E[row]:g} in row {row} (counted from 0); it should hold numbers in [-1, 1]. Of ratings say in "
            f"data.yaml what a success is: weight: {{column: {name}, success_from: 4}}"
        )
        return None
    return value_E


def read_ratings(column: pa.ChunkedArray, file: str, rating: Rating, findings: Findings) -> Times | None:
    """Ratings as weights [E], NaN where there is none; None after a fault.

    Linear in two pieces: from the lowest rating (`lowest`) to `success_from` (0.8), and on to the highest (1).
    """
    value_E = _numbers(column, file, rating.column, "numbers", findings)
    if value_E is None or not np.isfinite(value_E).any():
        return value_E
    low, high, cut = float(np.nanmin(value_E)), float(np.nanmax(value_E)), rating.success_from
    if cut > high:
        findings.fault(
            f"{file}: column {rating.column} reaches {high:g}, so that no event is a success; lower "
            f"weight.success_from ({cut:g})"
        )
        return None
    best_E = LEAST_SUCCESS + (1 - LEAST_SUCCESS) * _share(value_E, cut, high)
    other_E = rating.lowest + (LEAST_SUCCESS - rating.lowest) * _share(value_E, low, cut)
    weight_E = np.where(value_E >= cut, best_E, np.minimum(other_E, MOST_OF_OTHERS))
    successes = float(np.mean(value_E >= cut))
    findings.note(
        f"{file}: column {rating.column}, from {low:g} to {high:g}, gives weights from {np.nanmin(weight_E):.2g} to "
        f"{np.nanmax(weight_E):.2g}; {successes:.0%} of the events are successes ({cut:g} or more)"
    )
    return np.where(np.isnan(value_E), np.nan, weight_E)


def _share(value_E: Times, low: float, high: float) -> Times:
    """Where values are from `low` (0) to `high` (1); 1 if both are equal."""
    if not high > low:
        return np.ones(len(value_E))
    scale = max(abs(low), abs(high), 1.0)  # of very large numbers the difference would overflow
    return np.clip((value_E / scale - low / scale) / (high / scale - low / scale), 0, 1)


def _numbers(column: pa.ChunkedArray, file: str, name: str, expected: str, findings: Findings) -> Times | None:
    """A column of numbers as float64 [E], NaN where empty; None after a fault."""
    try:
        array = plain(column)
        if is_text(array.type):  # of a CSV file whose other rows are no numbers
            array = pc.utf8_trim_whitespace(array)
            array = pc.if_else(pc.equal(array, ""), pa.scalar(None, array.type), array)
        kind = array.type
        if not (pa.types.is_null(kind) or is_text(kind) or _is_number(kind)):
            raise pa.ArrowInvalid
        value_E: Array = to_float(array).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, NotImplementedError):
        findings.fault(f"{file}: column {name} is {column.type}; it should hold {expected}")
        return None
    if np.isinf(value_E).any():
        row = int(np.argmax(np.isinf(value_E)))
        findings.fault(f"{file}: column {name} is infinite in row {row} (counted from 0); it should hold {expected}")
        return None
    return value_E.astype(np.float64)


def _is_number(kind: pa.DataType) -> bool:
    checks = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(check(kind) for check in checks)


class Meaning(NamedTuple):
    """What events mean to the models."""

    weight_E: Floats
    seen_s_E: Times
    target_E: Bools
    success_types: list[str]
    """Types taken as successes because no event is one by the configuration."""


def meaning(types: Types, given_E: Times | None, config: EventsConfig, file: str, findings: Findings) -> Meaning:
    """Strength, time out of answers and target of each event [E]. `given_E`: their own weights, NaN where they have
    none."""
    names, code_E = types
    kinds = [config.of(name) for name in names]
    if config.target and not np.isin(code_E, [t for t, name in enumerate(names) if config.is_target(name)]).any():
        findings.fault(
            f"{file}: no event has the type {config.target!r}, which events.target of the configuration names; "
            f"there are {listed(names)}"
        )
    weight_E = _weights(kinds_strength(config, names), code_E, given_E)
    chosen: list[str] = []
    if len(code_E) and not config.target and not (weight_E >= LEAST_SUCCESS).any():
        chosen = _strongest(config, names, code_E, given_E)
    if chosen:
        config = config.with_successes(chosen)
        weight_E = _weights(kinds_strength(config, names), code_E, given_E)
        findings.note(
            f"{file}: no event is a success by the configuration, so each {chosen[0]} is taken as one; say otherwise "
            f"by events.types, such as {chosen[0]}: {{success: true}}"
        )
    if config.target:
        target_E = np.array([config.is_target(name) for name in names])[code_E]
    else:
        target_E = weight_E >= LEAST_SUCCESS
    return Meaning(weight_E, np.array([kind.seen_s for kind in kinds])[code_E], target_E, chosen)


def kinds_strength(config: EventsConfig, names: Sequence[str]) -> Floats:
    """The strength of each type [T]."""
    return np.array([config.of(name).strength for name in names], np.float32)


def _weights(strength_T: Floats, code_E: Shorts, given_E: Times | None) -> Floats:
    if given_E is None:
        return strength_T[code_E]
    return np.where(np.isnan(given_E), strength_T[code_E], given_E.astype(np.float32))


def _strongest(config: EventsConfig, names: Sequence[str], code_E: Shorts, given_E: Times | None) -> list[str]:
    """The type with the greatest strength among the events that take their weight from their type."""
    without_E = np.ones(len(code_E), np.bool_) if given_E is None else np.isnan(given_E)
    present = [names[t] for t in np.unique(code_E[without_E])]
    strength = kinds_strength(config, present)
    return [present[int(np.argmax(strength))]] if len(present) and strength.max() > 0 else []
