"""The merge of YAML content that values, profiles and overlays use."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from monitoring.deep_merge import deep_merge


@pytest.mark.parametrize(
    ("base", "overlay", "merged"),
    [
        ({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 4}, "e": 5}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": 1}}),
        ({"a": 1}, [2], [2]),
    ],
)
def test_mappings_are_merged_by_key_and_any_other_value_is_replaced(base: Any, overlay: Any, merged: Any) -> None:
    base_before, overlay_before = copy.deepcopy(base), copy.deepcopy(overlay)
    assert deep_merge(base, overlay) == merged
    assert (base, overlay) == (base_before, overlay_before)


def test_a_changed_result_leaves_the_overlay_as_it_was() -> None:
    overlay = {"stages": {"scoring": {"num_cpus": 1}}}
    deep_merge({}, overlay)["stages"]["scoring"]["node_labels"] = {}
    assert overlay == {"stages": {"scoring": {"num_cpus": 1}}}
