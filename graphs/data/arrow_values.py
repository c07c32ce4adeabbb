"""Columns of any Arrow type as one array of a plain type: no dictionary, view, run ends, extension or chunks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.messages import Array


def plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """`column` with text as large_string, and lists as list or large_list.

    Raises:
        pa.ArrowException, NotImplementedError: Arrow can't convert the type.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [_plain(chunk) for chunk in chunks] or [_plain(pa.nulls(0, column.type))]
    return pa.concat_arrays(parts)


def is_text(kind: pa.DataType) -> bool:
    """Whether it is text of any width."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_binary(kind: pa.DataType) -> bool:
    """Whether it is bytes of any length."""
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)


def is_list(kind: pa.DataType) -> bool:
    """Whether it is a list of any kind."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in (*lists, pa.types.is_list_view, pa.types.is_large_list_view))


def finite_or_null(array: pa.Array) -> pa.Array:
    """Numbers as float64, with null for NaN and infinity."""
    values = to_float(array)
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))


def to_float(array: pa.Array) -> pa.Array:
    """Numbers, decimals and bool as float64, rounded where they must be."""
    return array.cast(pa.float64(), safe=False)


def valid_mask(array: pa.Array) -> Array:
    """bool [N]: not null."""
    return array.is_valid().to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _plain(array: pa.Array) -> pa.Array:
    while True:
        kind = array.type
        if isinstance(kind, pa.BaseExtensionType):
            array = array.storage
        elif pa.types.is_dictionary(kind):
            array = array.dictionary_decode()
        elif pa.types.is_run_end_encoded(kind):
            array = pc.run_end_decode(array)
        elif pa.types.is_string(kind) or pa.types.is_string_view(kind):
            array = array.cast(pa.large_string())
        elif is_binary(kind) and not pa.types.is_large_binary(kind):
            array = array.cast(pa.large_binary())
        elif pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
            array = array.cast(pa.decimal128(38, kind.scale))
        elif pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
            array = _without_view(array)
        else:
            return array


def _without_view(array: pa.Array) -> pa.Array:
    """A list view as a list; Arrow's own cast writes too few offsets (26.0.1)."""
    valid_N = valid_mask(array)
    count_N = np.where(valid_N, array.sizes.to_numpy(zero_copy_only=False), 0)
    offset_N = np.concatenate([[0], np.cumsum(count_N)]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offset_N, mask=np.append(~valid_N, False)), array.flatten())
