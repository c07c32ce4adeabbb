"""The suite that every stage passes.

A stage's test class derives from `StageContract`, gives a fixture `stage` and a method `batches(n)`: n rows of valid
input, one message per argument of the stage, with rows of different kinds and lengths. Equal n gives equal batches.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar, get_args, get_type_hints

import numpy as np
import pytest

from deployments.errors import VersionMismatch
from deployments.messages import PAD, Array, Batch, pad_columns
from deployments.stages.contract import Stage

ROWS = 7
Batches = tuple[Batch, ...]


class StageContract:
    """Inherit it; see the module."""

    tolerance: ClassVar[float] = 0.0
    """Relative and absolute, for float columns whose rounding depends on the batch size, as in matrix products."""
    ragged: ClassVar[str] = "HYXGKN"
    """Dimensions that padding may widen."""

    @pytest.fixture
    def stage(self) -> Stage:
        raise NotImplementedError

    def batches(self, n: int) -> Batches:
        raise NotImplementedError

    def test_an_answer_has_the_shapes_and_types_its_message_declares(self, stage: Stage) -> None:
        answer = stage(*self.batches(ROWS))
        hints = get_type_hints(type(answer))
        lengths = {"B": ROWS}
        for name, letters in type(answer)._columns():
            array = getattr(answer, name)
            assert array.ndim == len(letters), name
            for letter, length in zip(letters, array.shape, strict=True):
                assert lengths.setdefault(letter, length) == length, f"{name}: {letter}"
            assert array.dtype == get_args(get_args(hints[name])[1])[0], name

    def test_an_answer_carries_the_model_version(self, stage: Stage) -> None:
        assert stage(*self.batches(ROWS)).model_version == stage.model_version

    def test_rows_keep_their_order(self, stage: Stage) -> None:
        batches, order = self.batches(ROWS), np.arange(ROWS)[::-1]
        self.assert_same(stage(*(b.take(order) for b in batches)), stage(*batches).take(order))

    def test_the_same_input_gives_the_same_answer(self, stage: Stage) -> None:
        self.assert_same(stage(*self.batches(ROWS)), stage(*self.batches(ROWS)), exactly=True)

    def test_a_batch_of_many_is_many_batches_of_one(self, stage: Stage) -> None:
        batches = self.batches(ROWS)
        together = stage(*batches)
        for row in range(ROWS):
            self.assert_same(stage(*(b.take([row]) for b in batches)), together.take([row]))

    def test_rows_do_not_depend_on_their_neighbours_width(self, stage: Stage) -> None:
        batches = self.batches(ROWS)
        first, rest = (tuple(b.take(part) for b in batches) for part in (slice(0, 2), slice(2, None)))
        joined = tuple(type(a).concat([a, b]) for a, b in zip(first, rest, strict=True))
        self.assert_same(type(stage(*first)).concat([stage(*first), stage(*rest)]), stage(*joined))

    def test_an_empty_batch_gives_an_empty_answer(self, stage: Stage) -> None:
        answer = stage(*(b.take(slice(0, 0)) for b in self.batches(ROWS)))
        assert len(answer) == 0
        assert all(getattr(answer, name).ndim == len(letters) for name, letters in answer._columns())

    def test_padding_changes_nothing(self, stage: Stage) -> None:
        batches = self.batches(ROWS)
        self.assert_same(stage(*(self.widened(b) for b in batches)), stage(*batches))

    @pytest.mark.parametrize("writeable", [True, False])
    def test_inputs_are_left_as_they_were(self, stage: Stage, writeable: bool) -> None:
        batches = tuple(_copied(b, writeable) for b in self.batches(ROWS))
        stage(*batches)
        for given, untouched in zip(batches, self.batches(ROWS), strict=True):
            self.assert_same(given, untouched, exactly=True)

    def test_an_answer_shares_no_memory_with_a_later_one(self, stage: Stage) -> None:
        first = stage(*self.batches(ROWS))
        kept = _copied(first, True)
        stage(*(b.take(slice(None, None, -1)) for b in self.batches(ROWS)))
        self.assert_same(first, kept, exactly=True)

    def test_threads_do_not_disturb_each_other(self, stage: Stage) -> None:
        inputs = [self.batches(ROWS), tuple(b.take(slice(0, 3)) for b in self.batches(ROWS))]
        alone = [stage(*batches) for batches in inputs]
        with ThreadPoolExecutor(2) as pool:
            for i, answer in enumerate(pool.map(lambda i: stage(*inputs[i % 2]), range(20))):
                self.assert_same(answer, alone[i % 2], exactly=True)

    def test_a_message_of_another_model_is_refused(self, stage: Stage) -> None:
        batches = self.batches(ROWS)
        for odd in range(len(batches)):
            mixed = (replace(b, model_version="another") if i == odd else b for i, b in enumerate(batches))
            with pytest.raises(VersionMismatch):
                stage(*mixed)
        with pytest.raises(VersionMismatch):
            stage(*(replace(b, model_version="another") for b in batches))

    def widened(self, batch: Batch, by: int = 3) -> Batch:
        """`batch` with `by` more columns of padding in each ragged dimension."""
        columns = {
            name: pad_columns(getattr(batch, name), getattr(batch, name).shape[1] + by)
            for name, letters in batch._columns()
            if letters[1:2] and letters[1] in self.ragged
        }
        return replace(batch, **columns)

    def assert_same(self, left: Batch, right: Batch, exactly: bool = False) -> None:
        """Equal columns, where one may have more padding than the other (unless `exactly`)."""
        assert type(left) is type(right)
        assert len(left) == len(right)
        tolerance = 0.0 if exactly else self.tolerance
        for name, letters in left._columns():
            a, b = getattr(left, name), getattr(right, name)
            if not exactly and letters[1:2] and letters[1] in self.ragged:
                width = min(a.shape[1], b.shape[1])
                for tail in (a[:, width:], b[:, width:]):
                    assert _is_padding(tail), f"{name}: more than padding"
                a, b = _canonical(a[:, :width]), _canonical(b[:, :width])
            if tolerance and a.dtype.kind == "f":
                np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)
            else:
                np.testing.assert_array_equal(a, b, err_msg=name, strict=True)


def _is_padding(tail: Array) -> bool:
    return bool((_canonical(tail) == (PAD if tail.dtype.kind == "i" else 0)).all())


def _canonical(array: Array) -> Array:
    """Padding of scores is -inf in a stage's answer and 0 where `concat` widened it."""
    return np.where(np.isneginf(array), array.dtype.type(0), array) if array.dtype.kind == "f" else array


def _copied(batch: Batch, writeable: bool) -> Batch:
    columns: dict[str, Any] = {name: getattr(batch, name).copy() for name, _ in batch._columns()}
    for array in columns.values():
        array.setflags(write=writeable)
    return replace(batch, **columns)
