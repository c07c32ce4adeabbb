"""On a CPU the model computes a batch in chunks of rows.

Shapes: R rows, F features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Run = Callable[[Tensor], Tensor]
"""Standardised features [R, F] on the device → float32 scores [R]."""

CHUNK_BYTES = 2 << 20
"""Most bytes of the first layer's output in a chunk: it stays in the core's cache, and its memory is reused."""

HALF_CHUNK_ROWS = 4096
"""Rows of a chunk in half precision: products are so fast there that the fixed cost of a call shows."""

HALF_ROW_MULTIPLE = 256
"""In half precision a chunk is padded to a multiple of it: oneDNN generates code for each number of rows."""


def in_chunks(run: Run, first_layer_width: int) -> Run:
    """`run` in chunks of at most CHUNK_BYTES of the first layer's float32 output."""
    rows = max(1, CHUNK_BYTES // (4 * first_layer_width))
    return lambda rows_RF: torch.cat([run(chunk_RF) for chunk_RF in torch.split(rows_RF, rows)])


def in_half_precision_chunks(run: Run, n_features: int) -> Run:
    """`run` in padded chunks of HALF_CHUNK_ROWS. Generates the code for every size now, not in a request's time."""
    with torch.inference_mode():
        for rows in range(HALF_ROW_MULTIPLE, HALF_CHUNK_ROWS + 1, HALF_ROW_MULTIPLE):
            run(torch.zeros(rows, n_features))
    return lambda rows_RF: torch.cat([_padded(run, chunk_RF) for chunk_RF in torch.split(rows_RF, HALF_CHUNK_ROWS)])


def _padded(run: Run, rows_RF: Tensor) -> Tensor:
    missing = -len(rows_RF) % HALF_ROW_MULTIPLE
    return run(nn.functional.pad(rows_RF, (0, 0, 0, missing)))[: len(rows_RF)] if missing else run(rows_RF)
