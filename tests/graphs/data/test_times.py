"""Times of events: every unit and type that people keep them in."""

from __future__ import annotations

import datetime as dt
import decimal
import re

import numpy as np
import pyarrow as pa
import pytest

from graphs.data.findings import Findings
from graphs.data.times import unix_seconds

NOW = 1.8e9


def read(array: pa.Array, unit: str = "") -> tuple[list[float] | None, Findings]:
    """The seconds and what was found."""
    findings = Findings()
    seconds = unix_seconds(pa.chunked_array([array]), "f.csv", "ts", unit, NOW, findings)
    return None if seconds is None else seconds.tolist(), findings


@pytest.mark.parametrize(
    ("array", "seconds", "note"),
    [
        (pa.array([1_700_000_000, 5]), [1.7e9, 5.0], ""),
        (pa.array([1.7e9 + 0.25]), [1.7e9 + 0.25], ""),
        (pa.array([1_700_000_000_123]), [1_700_000_000.123], "Unix milliseconds, by the size"),
        (pa.array([1.7e12]), [1.7e9], "Unix milliseconds"),
        (pa.array([1_700_000_000_123_456]), [1_700_000_000.123456], "Unix microseconds"),
        (pa.array([1_700_000_000_123_456_789]), [1_700_000_000.123456], "Unix nanoseconds"),
        (pa.array([1_700_000_000_123_456_789], pa.uint64()), [1_700_000_000.123456], "Unix nanoseconds"),
        (pa.array([decimal.Decimal("1700000000.5")]), [1_700_000_000.5], ""),
        (pa.array(["1700000000"]), [1.7e9], ""),
        (pa.array([" 1.7e12 "]), [1.7e9], "Unix milliseconds"),
        (pa.array([1_700_000_000_999_999_999], pa.timestamp("ns")), [1_700_000_000.999999], "no time zone; .* UTC"),
        (pa.array([1_700_000_000_999_999_999], pa.timestamp("ns", "Europe/Oslo")), [1_700_000_000.999999], ""),
        (pa.array([1_700_000_000], pa.timestamp("s", "UTC")), [1.7e9], ""),
        (pa.array([dt.date(2020, 1, 2)]), [1_577_923_200.0], "holds dates"),
        (pa.array([dt.date(2020, 1, 2)], pa.date64()), [1_577_923_200.0], "holds dates"),
        (pa.array(["2020-01-02"]), [1_577_923_200.0], "no time zone"),
        (pa.array(["2020-01-02T01:00:00Z", "2020-01-02 01:00"]), [1_577_926_800.0] * 2, "no time zone"),
        (pa.array(["2020-01-02T01:00:00+01:00", "2020-01-01T23:00:00-0100"]), [1_577_923_200.0] * 2, ""),
        (pa.array(["2020-01-02T00:00:00.123456789Z"]), [1_577_923_200.123456], ""),
        (pa.array(["2020-01-02"]).dictionary_encode(), [1_577_923_200.0], ""),
    ],
    ids=str,
)
def test_times_of_every_unit_and_type_are_unix_seconds(array: pa.Array, seconds: list[float], note: str) -> None:
    found, findings = read(array)
    assert found is not None
    np.testing.assert_allclose(found, seconds, rtol=0, atol=5e-7)
    assert findings.faults == []
    assert not note or any(re.search(note, each) for each in findings.notes)


def test_a_named_unit_is_taken_whatever_the_numbers_are() -> None:
    assert read(pa.array([5_000]), "ms")[0] == [5.0]
    assert read(pa.array([5_000]), "ms")[1].notes == []


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (pa.array(["2020-01-02", "2/1/2020"]), "column ts holds '2/1/2020' in row 1 (counted from 0)"),
        (pa.array(["2020-01-02", "2020-13-02", "x"]), "column ts holds '2020-13-02' in row 1"),
        (pa.array([1.7e9, 1.7e12, 1.7e9]), "holds 1700000000000.0 in row 1 (counted from 0) among seconds"),
        (pa.array([1.0, float("inf")]), "column ts holds inf in row 1"),
        (pa.array([2, -1]), "column ts holds a time before 1970 (-1 s) in row 1"),
        (pa.array([None, 1]), "column ts has 1 empty value, the first in row 0"),
        (pa.array([dt.time(1)]), "column ts is time64[us]; it should hold times"),
        (pa.array([dt.timedelta(1)]), "column ts is duration[us]; it should hold times"),
        (pa.array([True]), "column ts is bool; it should hold times"),
    ],
    ids=str,
)
def test_other_columns_are_refused_with_the_first_bad_value_and_its_row(array: pa.Array, fault: str) -> None:
    found, findings = read(array)
    assert found is None
    assert fault in findings.faults[0]


def test_far_sentinels_are_taken_as_of_the_newest_other_time() -> None:
    found, findings = read(pa.array(["9999-12-31", "2020-01-02"]))
    assert found == [1_577_923_200.0] * 2
    assert "1 of 2 events in the future (the first in row 0, counted from 0: 9999-12-31)" in findings.notes[-1]
