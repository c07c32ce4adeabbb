"""Dropout that draws a byte per element. torch's own draws a number, which took a third of a training step or more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEVELS = 256


class ByteDropout(nn.Module):
    """As nn.Dropout, with `share` rounded to 1/256."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._dropped = round(_LEVELS * share)
        assert 0 <= self._dropped < _LEVELS, f"share {share} leaves nothing"

    def forward(self, values: Tensor) -> Tensor:
        """`values` with some of them 0 and the others larger, in training; unchanged otherwise."""
        if not self.training:
            return values
        size = values.numel()
        words = torch.randint(-(2**63), 2**63 - 1, (-(-size // 8),))
        kept = words.view(torch.uint8)[:size].view(values.shape) >= self._dropped
        return values * kept.float().mul_(_LEVELS / (_LEVELS - self._dropped))
