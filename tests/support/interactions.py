"""Events for tests of the training code."""

from __future__ import annotations

import numpy as np

from graphs.data.dataset import Interactions


def interactions(rows: list[tuple[int, int, float]], weight: float = 1.0) -> Interactions:
    """Events from (user, item, Unix seconds), all of one weight; the rows are sorted as `Interactions` demands."""
    user, item, time = zip(*rows, strict=True)
    return Interactions.untyped(
        np.array(user, np.int32),
        np.array(item, np.int32),
        np.array(time, np.float64),
        np.full(len(rows), weight, np.float32),
    )
