"""Times of events: Unix seconds from numbers in any unit, Arrow's timestamps and dates, or ISO 8601 text."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.messages import Array, Times
from deployments.store.events import MOST_AHEAD_S
from graphs.data.arrow_values import is_text, plain, to_float, valid_mask
from graphs.data.findings import Findings, counted, shown

EXPECTED = "times: Unix seconds (or ms, us, ns), Arrow timestamps or dates, or ISO 8601 text"

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

_FROM = {"ns": 1e17, "us": 1e14, "ms": 1e11}
"""Numbers from here on are in this unit: 1973 in each. Seconds reach it in the year 5138."""

_ZONE = r"\d:\d\d.*(?:[zZ]|[+-]\d\d(?::?\d\d)?)$"


def unix_seconds(
    column: pa.ChunkedArray, file: str, name: str, unit: str, now: float, findings: Findings
) -> Times | None:
    """The times of a column [E], at most `now`; None after a fault. `unit`: of numbers; empty: by their size."""
    try:
        array = plain(column)
    except (pa.ArrowException, NotImplementedError):
        array = pa.nulls(len(column))
    kind = array.type
    if array.null_count:
        row = int(np.argmin(valid_mask(array)))
        findings.fault(
            f"{file}: column {name} has {counted(array.null_count, 'empty value')}, the first in row {row} (counted "
            "from 0); drop the rows"
        )
        return None
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            findings.note(f"{file}: column {name} has no time zone; it is read as UTC")
        seconds_E: Times | None = _in_seconds(array.cast(pa.int64()).to_numpy(), kind.unit)
    elif pa.types.is_date(kind):
        days = pa.types.is_date32(kind)
        number_E = array.cast(pa.int32() if days else pa.int64()).to_numpy()
        seconds_E = number_E * 86_400.0 if days else number_E / 1000
        findings.note(f"{file}: column {name} holds dates; an event counts at the midnight (UTC) that begins its day")
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        seconds_E = _of_numbers(array, file, name, unit, findings)
    elif is_text(kind):
        seconds_E = _of_text(array, file, name, unit, findings)
    else:
        findings.fault(f"{file}: column {name} is {column.type}; it should hold {EXPECTED}")
        return None
    return None if seconds_E is None else _checked(seconds_E, file, name, now, findings)


def _in_seconds(number_E: Array, unit: str) -> Times:
    """Whole nanoseconds are truncated to microseconds: a float64 holds no more."""
    if unit == "ns":
        return (number_E // 1000) / 1e6
    return number_E / PER_SECOND[unit]


def _of_numbers(array: pa.Array, file: str, name: str, unit: str, findings: Findings) -> Times | None:
    whole = pa.types.is_integer(array.type)
    number_E = (array if whole else to_float(array)).to_numpy(zero_copy_only=False)
    if not np.isfinite(number_E).all():
        row = int(np.argmin(np.isfinite(number_E)))
        findings.fault(f"{file}: column {name} holds {number_E[row]} in row {row} (counted from 0); drop such rows")
        return None
    if not unit:
        middle = float(np.median(number_E)) if len(number_E) else 0.0
        unit = next((each for each, least in _FROM.items() if middle >= least), "s")
        if unit != "s":
            findings.note(f"{file}: column {name} is read as Unix {_NAMES[unit]}, by the size of its numbers")
    seconds_E = _in_seconds(number_E, unit)
    if len(seconds_E) and seconds_E.max() >= _FROM["ms"]:
        row = int(np.argmax(seconds_E >= _FROM["ms"]))
        findings.fault(
            f"{file}: column {name} holds {number_E[row]} in row {row} (counted from 0) among {_NAMES[unit]}; give all "
            "times in one unit, or name it by time_unit in data.yaml"
        )
        return None
    return seconds_E


def _of_text(array: pa.Array, file: str, name: str, unit: str, findings: Findings) -> Times | None:
    array = pc.utf8_trim_whitespace(array)
    for numbers in (pa.int64(), pa.float64()):
        if _works(lambda part, kind=numbers: part.cast(kind), array):  # type: ignore[misc]
            return _of_numbers(array.cast(numbers), file, name, unit, findings)
    zoned_E = pc.match_substring_regex(array, _ZONE)
    seconds_E = np.zeros(len(array))
    for has_zone, parse in ((True, _zoned), (False, _naive)):
        row_R = np.flatnonzero(zoned_E.to_numpy(zero_copy_only=False) == has_zone)
        part = array.take(pa.array(row_R))
        if not _works(parse, part):
            row = int(row_R[_first_failure(parse, part)])
            findings.fault(
                f"{file}: column {name} holds {shown(array[row].as_py())} in row {row} (counted from 0); it "
                f"should hold {EXPECTED}"
            )
            return None
        seconds_E[row_R] = parse(part)
        if len(part) and not has_zone:
            findings.note(f"{file}: column {name} has no time zone; it is read as UTC")
    return seconds_E


def _zoned(texts: pa.Array) -> Times:
    """Times with an offset, up to microseconds."""
    return _parsed(pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1"), "UTC")


def _naive(texts: pa.Array) -> Times:
    return _parsed(pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1"), None)


def _parsed(texts: pa.Array, zone: str | None) -> Times:
    return _in_seconds(texts.cast(pa.timestamp("us", zone)).cast(pa.int64()).to_numpy(), "us")


def _works(parse: Callable[[pa.Array], object], texts: pa.Array) -> bool:
    try:
        parse(texts)
    except pa.ArrowException:
        return False
    return True


def _first_failure(parse: Callable[[pa.Array], object], texts: pa.Array) -> int:
    """Position of the first text that `parse` refuses."""
    start, end = 0, len(texts)
    while end - start > 1:
        middle = (start + end) // 2
        if _works(parse, texts[start:middle]):
            start = middle
        else:
            end = middle
    return start


def _checked(seconds_E: Times, file: str, name: str, now: float, findings: Findings) -> Times | None:
    if len(seconds_E) and seconds_E.min() < 0:
        row = int(np.argmax(seconds_E < 0))
        findings.fault(
            f"{file}: column {name} holds a time before 1970 ({seconds_E[row]:.0f} s) in row {row} (counted from 0); "
            "mend it or drop the row"
        )
        return None
    ahead_E = seconds_E > now + MOST_AHEAD_S
    if ahead_E.any():
        first = int(np.argmax(ahead_E))
        findings.note(
            f"{file}: {int(ahead_E.sum()):,} of {counted(len(ahead_E), 'event')} in the future (the first in row "
            f"{first}, counted from 0: {shown_time(float(seconds_E[first]))}); taken as of the newest other "
            "event's time"
        )
    # Not as of now: in older data a single event would then be all that is recent.
    newest = float(seconds_E[~ahead_E].max(initial=0.0)) if not ahead_E.all() else now
    return np.where(ahead_E, min(newest, now), seconds_E)


def shown_time(seconds: float) -> str:
    """A date for a sentence."""
    try:
        return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        return f"the year {1970 + seconds / 31_556_952:.0f}"
