"""Features of items and users: columns of any Arrow type as the few that the models read, and what is left out.

text → string; bool; whole numbers → int64; other numbers → float64; dates → date32; timestamps → timestamp[us], UTC;
times of the day and durations as they are; lists of text → list<string>; lists of whole numbers → list<int64>; lists of
fractions, and lists of numbers of a fixed size → list<float>. Null, NaN, infinity and empty text mean unknown.
What each means to the models: deployments/artifact/arrow_types.py.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphs.data.arrow_values import finite_or_null, is_list, is_text, plain, to_float
from graphs.data.findings import Findings, counted, listed
from graphs.data.times import PER_SECOND

_INDEX = re.compile(r"__index_level_\d+__|Unnamed: \d+(_level_\d+)?|")
_SMALLEST_TIME, _LARGEST_TIME = -62_135_596_800.0, 253_402_300_799.0
"""The years 1 and 9999."""


class LeftOut(Exception):
    """A column that is not used, and why."""


def is_index(name: str) -> bool:
    """Whether a column is an index that pandas wrote."""
    return bool(_INDEX.fullmatch(name))


def unread(kind: pa.DataType) -> str:
    """Why no column of this type is used; empty: it may be."""
    if isinstance(kind, pa.BaseExtensionType):
        return "an id of another table" if "uuid" in str(kind) else unread(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return unread(kind.value_type)
    if pa.types.is_null(kind):
        return "empty"
    if is_list(kind):
        inner = kind.value_type
        return f"lists of {inner}" if unread(inner) or is_list(inner) or pa.types.is_temporal(inner) else ""
    temporal = pa.types.is_temporal(kind) and not pa.types.is_interval(kind)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return "" if temporal or numeric or is_text(kind) or pa.types.is_boolean(kind) else f"{kind}"


def read_features(table: pa.Table, file: str, skipped: tuple[str, ...], findings: Findings) -> dict[str, pa.Array]:
    """The features of a table by name, without the columns `skipped`."""
    found: dict[str, pa.Array] = {}
    left_out: list[str] = []
    for name in table.column_names:
        if name in skipped:
            continue
        try:
            if is_index(name):
                raise LeftOut("an index of pandas")
            found[name] = read_feature(table.column(name), file, name, findings)
        except LeftOut as reason:
            left_out.append(f"{name or repr(name)} ({reason})")
    if left_out:
        findings.note(f"{file}: left out: {listed(left_out)}")
    return found


def read_feature(column: pa.ChunkedArray, file: str, name: str, findings: Findings) -> pa.Array:
    """A column in one of the types of this module.

    Raises:
        LeftOut: it is not used.
    """
    if reason := unread(column.type):
        raise LeftOut(reason)
    try:
        values = _in_plain_type(plain(column), file, name, findings)
    except (pa.ArrowException, NotImplementedError) as error:
        raise LeftOut(f"{column.type} that can't be converted: {' '.join(str(error).split())[:80]}") from None
    if values.null_count == len(values) and len(values):
        raise LeftOut("empty")
    return values


def read_titles(column: pa.ChunkedArray, file: str, findings: Findings) -> pa.Array:
    """Titles as text, null where there is none."""
    try:
        array = plain(column)
        texts = _text(array if is_text(array.type) else array.cast(pa.large_string()))
    except (pa.ArrowException, NotImplementedError):
        findings.note(f"{file}: left out: title ({column.type}); it should hold text")
        return pa.nulls(len(column), pa.string())
    return texts


def _in_plain_type(array: pa.Array, file: str, name: str, findings: Findings) -> pa.Array:
    kind = array.type
    if is_text(kind):
        return _text(array)
    if pa.types.is_boolean(kind):
        return array
    if pa.types.is_integer(kind):
        whole = not pa.types.is_uint64(kind) or not len(array) or (pc.max(array).as_py() or 0) < 2**63
        return array.cast(pa.int64()) if whole else to_float(array)
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _time(array)
    if pa.types.is_temporal(kind):
        return array
    if is_list(kind):
        return _lists(array, file, name, findings)
    return finite_or_null(array)


def _text(array: pa.Array) -> pa.Array:
    known = pc.if_else(pc.equal(array, ""), pa.scalar(None, array.type), array)
    return known.cast(pa.string())


def _time(array: pa.Array) -> pa.Array:
    kind = array.type
    valid_N = array.is_valid().to_numpy(zero_copy_only=False)
    raw_N = array.cast(pa.int32() if pa.types.is_date32(kind) else pa.int64()).fill_null(0).to_numpy()
    if pa.types.is_date(kind):
        second_N = raw_N * 86_400.0 if pa.types.is_date32(kind) else raw_N / 1000
    else:
        second_N = raw_N / PER_SECOND[kind.unit]
    valid_N = valid_N & (second_N >= _SMALLEST_TIME) & (second_N <= _LARGEST_TIME)
    micro_N = np.where(valid_N, np.clip(second_N, _SMALLEST_TIME, _LARGEST_TIME) * 1e6, 0).astype(np.int64)
    moments = pa.array(micro_N, mask=~valid_N).cast(pa.timestamp("us", "UTC"))
    return moments.cast(pa.date32()) if pa.types.is_date(kind) else moments


def _lists(array: pa.Array, file: str, name: str, findings: Findings) -> pa.Array:
    fixed = pa.types.is_fixed_size_list(array.type)
    valid_N = array.is_valid().to_numpy(zero_copy_only=False)
    length_N = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    length_N = np.where(valid_N, length_N, 0).astype(np.int64)
    entries = plain(array.flatten())
    row_V = np.repeat(np.arange(len(array)), length_N)
    kind = entries.type
    if pa.types.is_integer(kind) and not fixed:
        whole = not pa.types.is_uint64(kind) or (pc.max(entries).as_py() or 0) < 2**63
        entries = entries.cast(pa.int64() if whole else pa.string())
        known_V = entries.is_valid().to_numpy(zero_copy_only=False)
        return _rebuilt(entries.filter(pa.array(known_V)), row_V[known_V], valid_N)
    if is_text(kind):
        known_V = pc.fill_null(pc.not_equal(entries, ""), False).to_numpy(zero_copy_only=False)
        return _rebuilt(_text(entries.filter(pa.array(known_V))), row_V[known_V], valid_N)
    if pa.types.is_boolean(kind):
        raise LeftOut("lists of bool")
    return _vectors(entries, row_V, length_N, valid_N, f"{file}: column {name}", findings)


def _vectors(
    entries: pa.Array, row_V: np.ndarray, length_N: np.ndarray, valid_N: np.ndarray, what: str, findings: Findings
) -> pa.Array:
    """Vectors of the most frequent length; the rows of another length, or with an unknown number, are missing."""
    some_N = length_N[valid_N & (length_N > 0)]
    if not len(some_N):
        raise LeftOut("empty")
    width = int(np.bincount(some_N).argmax())
    with np.errstate(over="ignore"):  # too large for float32: infinite, so unknown
        number_V = finite_or_null(entries).to_numpy(zero_copy_only=False).astype(np.float32)
    good_N = valid_N & (length_N == width)
    good_N[row_V[~np.isfinite(number_V)]] = False
    lost = int((length_N > 0).sum() - good_N.sum())
    if lost > len(some_N) / 2:
        raise LeftOut(f"lists of numbers of {len(np.unique(some_N))} lengths, most of them not {width} known numbers")
    if lost:
        findings.note(f"{what} holds vectors of {width} numbers; {counted(lost, 'row')} with others count as unknown")
    known_V = good_N[row_V]
    return _rebuilt(pa.array(number_V[known_V]), row_V[known_V], good_N)


def _rebuilt(entries: pa.Array, row_V: np.ndarray, valid_N: np.ndarray) -> pa.Array:
    """Lists from their entries and the rows [V] of these."""
    count_N = np.bincount(row_V, minlength=len(valid_N))
    offset_N: np.ndarray = np.concatenate([[0], np.cumsum(count_N)]).astype(np.int32)
    nullable = pa.array(offset_N, mask=np.append(~valid_N, False))
    return pa.ListArray.from_arrays(nullable, entries)
