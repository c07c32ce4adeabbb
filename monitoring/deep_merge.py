"""The one merge of YAML content: an overlay over a base, key by key. Used here for values.yaml, and by graphs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def deep_merge(base: Any, overlay: Any) -> Any:
    """`base` with the values of `overlay`.

    Two mappings are merged key by key, at every depth; any other value, a list or None among them, replaces the base's.
    Neither argument is changed. The result shares values with `base`, and none with `overlay`.
    """
    if isinstance(base, Mapping) and isinstance(overlay, Mapping):
        return {**base, **{key: deep_merge(base.get(key), value) for key, value in overlay.items()}}
    return copy.deepcopy(overlay)
