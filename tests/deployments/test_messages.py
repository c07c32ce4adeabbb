"""`take` and `concat` of every message: rows are independent, and padding is all that `concat` adds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments import messages
from deployments.errors import VersionMismatch
from deployments.messages import PAD, Array, Batch, Filter, RequestBatch, ScoreBatch, pad_columns, take_columns

TYPES: list[type[Batch]] = [
    v for v in vars(messages).values() if isinstance(v, type) and issubclass(v, Batch) and v is not Batch
]
"""Every message of the module."""
RAGGED = "HYXGKNU"
"""Dimensions whose length may differ between batches of one type."""
HINTS = {kind: get_type_hints(kind) for kind in TYPES}
FILTERS = tuple(Filter(one_of=(("genre", (value,)),)) for value in "abc")
CONTEXTS = tuple({"page": page} for page in range(3))

ROWS, SEEDS = st.integers(0, 5), st.integers(0, 2**32 - 1)
quick = settings(max_examples=60, deadline=None)


def message(kind: type[Batch], rows: int, fixed: dict[str, int], rng: np.random.Generator) -> Any:
    """A message of `rows` random rows; `fixed`: lengths of the dimensions that are not ragged, by letter."""
    lengths = {letter: int(rng.integers(0, 5)) for letter in RAGGED} | fixed | {"B": rows}
    fields: dict[str, Any] = {"model_version": "v"}
    for name, letters in kind._columns():
        dtype = get_args(get_args(HINTS[kind][name])[1])[0]
        fields[name] = rng.integers(-1, 50, [lengths[letter] for letter in letters]).astype(dtype)
    if "sources" in HINTS[kind]:
        fields["sources"] = ("popular",)
    if kind is RequestBatch:
        fields["filters"], fields["contexts"] = FILTERS[: rng.integers(0, 4)], CONTEXTS[: rng.integers(0, 4)]
        fields["filter_B"] = rng.integers(PAD, len(fields["filters"]), rows).astype(np.int32)
        fields["context_B"] = rng.integers(PAD, len(fields["contexts"]), rows).astype(np.int32)
    return kind(**fields)


@st.composite
def several(draw: st.DrawFn) -> list[Any]:
    """One to four messages of one type, with different numbers of rows and widths of the ragged dimensions."""
    kind, counts = draw(st.sampled_from(TYPES)), draw(st.lists(ROWS, min_size=1, max_size=4))
    rng = np.random.default_rng(draw(SEEDS))
    fixed = {letter: int(rng.integers(0, 4)) for letter in "DFSR"}
    return [message(kind, count, fixed, rng) for count in counts]


one = several().map(lambda batches: batches[0])


def row(batch: Any, index: int) -> dict[str, Any]:
    """The values of one row; of a request, its filter and context in place of their indices."""
    values = {name: getattr(batch, name)[index] for name, _ in batch._columns()}
    if isinstance(batch, RequestBatch):
        for column, table in (("filter_B", batch.filters), ("context_B", batch.contexts)):
            values[column] = None if values[column] == PAD else table[values[column]]
    return values


def assert_same_row(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal values, where `found` may have padding beyond the width of `expected`."""
    for name, value in expected.items():
        if not isinstance(value, np.ndarray):
            assert found[name] == value, name
            continue
        width = value.shape[0]
        assert found[name].dtype == value.dtype, name
        assert (found[name][:width] == value).all(), name
        assert (found[name][width:] == (PAD if value.dtype.kind == "i" else 0)).all(), f"{name}: not padding"


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    assert len(found) == len(expected)
    for index in range(len(expected)):
        assert_same_row(row(found, index), row(expected, index))


@quick
@given(one, st.data())
def test_take_returns_the_given_rows_in_the_given_order(batch: Any, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=8)) if len(batch) else []
    taken = batch.take(np.array(rows, np.intp))
    assert len(taken) == len(rows)
    assert taken.model_version == batch.model_version
    for index, source in enumerate(rows):
        assert_same_row(row(taken, index), row(batch, source))


@quick
@given(one, SEEDS, st.data())
def test_take_by_mask_or_slice_is_take_by_indices(batch: Any, seed: int, data: st.DataObject) -> None:
    mask_B = np.random.default_rng(seed).random(len(batch)) < 0.5
    assert_same(batch.take(mask_B), batch.take(np.flatnonzero(mask_B)))
    part = data.draw(st.slices(len(batch)))
    assert_same(batch.take(part), batch.take(np.arange(len(batch))[part]))


@quick
@given(one, st.lists(st.integers(0, 5), max_size=3))
def test_concat_of_consecutive_takes_is_the_original(batch: Any, cuts: list[int]) -> None:
    cuts = sorted(min(cut, len(batch)) for cut in cuts)
    slices = [slice(begin, end) for begin, end in zip([0, *cuts], [*cuts, len(batch)], strict=True)]
    joined = batch.concat([batch.take(part) for part in slices])
    assert_same(joined, batch)
    for name, _ in batch._columns():
        assert getattr(joined, name).shape == getattr(batch, name).shape, f"{name}: concat added columns"


@quick
@given(several())
def test_a_row_does_not_depend_on_the_batches_beside_it(batches: list[Any]) -> None:
    joined, begin = batches[0].concat(batches), 0
    assert len(joined) == sum(map(len, batches))
    for batch in batches:
        assert_same(joined.take(slice(begin, begin + len(batch))), batch)
        begin += len(batch)


@quick
@given(several())
def test_concat_pads_to_the_widest_batch_and_keeps_the_types(batches: list[Any]) -> None:
    joined = batches[0].concat(batches)
    for name, letters in joined._columns():
        arrays, found = [getattr(batch, name) for batch in batches], getattr(joined, name)
        assert (found.dtype, found.ndim) == (arrays[0].dtype, len(letters))
        if len(letters) > 1:
            assert found.shape[1] == max(array.shape[1] for array in arrays), name


@quick
@given(several(), st.integers(1, 4))
def test_concat_in_two_steps_is_concat_in_one(batches: list[Any], cut: int) -> None:
    concat = batches[0].concat
    assert_same(concat([concat(half) for half in (batches[:cut], batches[cut:]) if half]), concat(batches))


@quick
@given(several())
def test_take_and_concat_do_not_write_to_their_inputs(batches: list[Any]) -> None:
    columns = [name for name, _ in batches[0]._columns()]
    copies = [replace(batch, **{name: getattr(batch, name).copy() for name in columns}) for batch in batches]
    for batch in batches:
        for name in columns:
            getattr(batch, name).setflags(write=False)
    batches[0].concat(batches).take(slice(None, None, -1))
    for batch, copy in zip(batches, copies, strict=True):
        assert_same(batch, copy)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_an_empty_batch_adds_no_rows(kind: type[Batch]) -> None:
    batch = message(kind, 3, dict.fromkeys("DFSR", 2), np.random.default_rng(1))
    empty = batch.take(slice(0, 0))
    assert len(empty) == len(kind.concat([empty, empty])) == 0
    for order in ([empty, batch], [batch, empty]):
        assert_same(kind.concat(order), batch)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_concat_refuses_messages_of_different_models(kind: type[Batch]) -> None:
    batch = message(kind, 2, dict.fromkeys("DFSR", 2), np.random.default_rng(2))
    with pytest.raises(VersionMismatch, match="several model versions: other, v"):
        kind.concat([batch, replace(batch, model_version="other")])


@quick
@given(ROWS, ROWS, ROWS)
def test_padded_columns_keep_their_values_and_end_in_padding(rows: int, columns: int, width: int) -> None:
    for kind, padding in ((np.int32, PAD), (np.float32, 0), (np.bool_, False)):
        array: Array = np.ones((rows, columns, 2), kind)
        padded = pad_columns(array, width)
        assert padded.shape == (rows, max(columns, width), 2)
        assert (padded[:, :columns] == array).all()
        assert (padded[:, columns:] == padding).all()


@quick
@given(ROWS, st.integers(1, 4), ROWS, SEEDS)
def test_taken_columns_are_those_of_numpy(rows: int, columns: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    array_BK, index_BN = rng.normal(size=(rows, columns)), rng.integers(0, columns, (rows, width))
    expected = np.take_along_axis(array_BK, index_BN, axis=1)
    np.testing.assert_array_equal(take_columns(array_BK, index_BN), expected, strict=True)


def test_missing_scores_are_filled_only_where_they_are_nan() -> None:
    ours = ScoreBatch("v", np.array([[1, np.nan], [3, -np.inf]], np.float32), ran_on="eager-fp32")
    others = ScoreBatch("v", np.array([[9, 8], [9, 8]], np.float32), ran_on="compiled-fp32")
    assert ours.missing_rows() == [0]
    filled = ours.fill_missing(others)
    assert filled.scores_BK.tolist() == [[1, 8], [3, -np.inf]]
    assert filled.ran_on == "compiled-fp32"
