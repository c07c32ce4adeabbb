"""int8 linear layers with torch's own x86 kernels (FBGEMM, oneDNN)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, one scale per output; each call quantises its input by the input's range.

    The input has 7 bits. Without VNNI the kernels add pairs of products in 16 bits, which 8-bit inputs would overflow.
    With 7 bits every x86 machine computes the scores that the parity gate measured.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        scale = weight.abs().amax(dim=1).clamp(min=1e-8) / 127
        zero = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated with no replacement in torch 2.13 that has these kernels
            quantised = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
        bias = None if layer.bias is None else layer.bias.detach()
        self._packed = torch.ops.quantized.linear_prepack(quantised, bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic(x.contiguous(), self._packed, reduce_range=True)
        return y


def quantise(layers: nn.ModuleList) -> nn.ModuleList:
    """The linear layers among `layers` in int8."""
    return nn.ModuleList([Int8Linear(layer) for layer in layers if isinstance(layer, nn.Linear)])
