"""The precisions of the ranking model, and the model cast to one of them.

`fp32`: all layers. `bf16`, `fp16`: the dense layers (HalfDCNv2). `int8`: the dense layers after the first, on the CPU
alone. `auto`: the fastest of fp32, bf16 and fp16 that passed the parity gate on this kind of machine.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import nn

from deployments.models.backends.int8 import quantise
from deployments.models.backends.unavailable import BackendUnavailable
from deployments.models.fused_dcn_v2 import FusedDCNv2, HalfDCNv2

Precision = Literal["fp32", "bf16", "fp16", "int8"]
AnyPrecision = Precision | Literal["auto"]

HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def in_precision(model: FusedDCNv2, precision: Precision, device: str) -> nn.Module:
    """A copy of `model` that computes in `precision`; features and scores stay in fp32.

    Raises:
        BackendUnavailable: int8 on a GPU, or of a model with a single dense layer.
    """
    model = copy.deepcopy(model).eval()
    if precision == "int8":
        if device != "cpu":
            raise BackendUnavailable("precision int8 has kernels for the CPU alone; use fp16 or bf16 on a GPU")
        if not len(model.hidden):
            raise BackendUnavailable(
                "int8 is for dense layers after the first, and this model has one; use bf16 or fp32"
            )
        model.hidden = quantise(model.hidden)
        return model
    return (model if precision == "fp32" else HalfDCNv2(model, HALF_DTYPES[precision])).to(device)
