"""Ids of users, items and events: text that the API takes, from the types in which people keep ids."""

from __future__ import annotations

import uuid
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.api.schemas import CONTROL_CHARACTERS, MOST_ID_CHARACTERS
from deployments.messages import Array, Ints
from graphs.data.arrow_values import is_binary, is_text, plain, to_float, valid_mask
from graphs.data.findings import Findings, counted, shown

EXPECTED = "ids: text, integers or UUIDs"
_EXACT = 2.0**53


class Ids(NamedTuple):
    """A column of ids [E] as codes, -1 where null."""

    values: pa.Array
    """Distinct ids as text [U], in the byte order of UTF-8."""
    code_E: Ints

    def take(self, rows: Array) -> pa.Array:
        """The ids of `rows` as text, null where there is none."""
        code_R = self.code_E[rows]
        return self.values.take(pa.array(code_R, mask=code_R < 0))


def read_ids(column: pa.ChunkedArray, file: str, name: str, findings: Findings, *, null: bool = False) -> Ids | None:
    """The ids of a column; None after a fault. `null`: whether ids may be missing."""
    try:
        array = plain(column)
        encoded = array.dictionary_encode()
    except (pa.ArrowException, NotImplementedError):
        _refuse(findings, file, name, column.type)
        return None
    if pa.types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(to_float(array)), pa.scalar(None, array.type), array)
        encoded = array.dictionary_encode()
    if array.null_count and not null:
        row = int(np.argmin(valid_mask(array)))
        findings.fault(
            f"{file}: column {name} has {counted(array.null_count, 'empty value')}, the first in row {row} (counted "
            "from 0); fill them in or drop the rows"
        )
        return None
    code_E = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    texts = _as_text(encoded.dictionary, file, name, findings, column.type)
    if texts is None or not _follow_the_rule(texts, code_E, file, name, findings):
        return None
    return _sorted(texts, code_E)


def _sorted(texts: pa.Array, code_E: Ints) -> Ids:
    again = texts.dictionary_encode()  # 0.0 and -0.0 are one id
    order_U = pc.array_sort_indices(again.dictionary).to_numpy()
    place_U = np.empty(len(order_U), np.int32)
    place_U[order_U] = np.arange(len(order_U), dtype=np.int32)
    code_U = np.append(place_U[again.indices.to_numpy()], np.int32(-1))
    return Ids(again.dictionary.take(pa.array(order_U)).cast(pa.string()), code_U[code_E].astype(np.int32))


def _as_text(values: pa.Array, file: str, name: str, findings: Findings, given: pa.DataType) -> pa.Array | None:
    kind = values.type
    try:
        if is_text(kind):
            return values
        if pa.types.is_integer(kind):
            return values.cast(pa.large_string())
        if pa.types.is_floating(kind):
            return _whole_numbers(to_float(values), file, name, findings)
        if pa.types.is_decimal(kind):
            return values.cast(pa.decimal256(76, 0)).cast(pa.large_string())
        if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16:
            return pa.array([str(uuid.UUID(bytes=each)) for each in values.to_pylist()], pa.large_string())
        if is_binary(kind):
            return values.cast(pa.large_string())
    except pa.ArrowException:
        pass
    _refuse(findings, file, name, given)
    return None


def _whole_numbers(values: pa.Array, file: str, name: str, findings: Findings) -> pa.Array | None:
    value_U: Array = values.to_numpy(zero_copy_only=False)
    wrong = ~np.isfinite(value_U) | (value_U != np.floor(value_U)) | (np.abs(value_U) > _EXACT)
    if wrong.any():
        findings.fault(
            f"{file}: column {name} holds {float(value_U[wrong][0])!r}, which is no whole number that a float holds "
            f"exactly; it should hold {EXPECTED}"
        )
        return None
    findings.note(f"{file}: column {name} holds whole numbers as floats; they are read as integers")
    return pa.array(value_U.astype(np.int64)).cast(pa.large_string())


def _follow_the_rule(texts: pa.Array, code_E: Ints, file: str, name: str, findings: Findings) -> bool:
    """Whether the ids are such as the API takes; the first wrong one is a fault."""
    length_U = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
    control_U = pc.match_substring_regex(texts, CONTROL_CHARACTERS).to_numpy(zero_copy_only=False)
    good = True
    for wrong_U, what in (
        (length_U == 0, "empty ids"),
        (length_U > MOST_ID_CHARACTERS, f"ids of more than {MOST_ID_CHARACTERS} characters"),
        (control_U, "ids with control characters"),
    ):
        if wrong_U.any():
            rows = np.flatnonzero(np.append(wrong_U, False)[code_E])
            value = texts[int(code_E[rows[0]])].as_py()
            findings.fault(
                f"{file}: column {name} has {what} in {counted(len(rows), 'row')}, the first {shown(value)} in row "
                f"{rows[0]} (counted from 0); the API takes 1 to {MOST_ID_CHARACTERS} characters without control "
                "characters, so mend them or drop the rows"
            )
            good = False
    return good


def _refuse(findings: Findings, file: str, name: str, kind: pa.DataType) -> None:
    findings.fault(f"{file}: column {name} is {kind}; it should hold {EXPECTED}")
