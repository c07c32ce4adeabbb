"""DCN-V2 in serving: the function of dcn_v2.py, rearranged to cost less per candidate. Exact except for rounding.

Every cross layer multiplies by x0, so x_l = x0 * m_l with m_0 = 1 and m_(l+1) = m_l + U_l D_l x_l + b_l. Of the last
layer only w · x_L is needed, where w are the output's weights:

    w · x_L = w · x_(L-1) + sum_r (D x_(L-1))_r (G x0)_r + (w * b) · x0    with G = U' diag(w)

So the last layer needs no wide product, and one matrix product reads x0 for D_0, the first dense layer, G and w * b.

Shapes: R rows (candidates of any requests), F features.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from deployments.models.dcn_v2 import CrossLayer, DCNv2


class FusedDCNv2(nn.Module):
    """Standardised features within the clip → scores, with the weights of a trained `model`."""

    def __init__(self, model: DCNv2) -> None:
        super().__init__()
        cross = [layer for layer in model.cross if isinstance(layer, CrossLayer)]
        deep = [layer for layer in model.deep if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            out_1F, deep_1X = torch.split(model.out.weight, [len(model.mean_F), deep[-1].out_features], dim=1)
            reads = [layer.down.weight for layer in cross]  # each cross layer's projection of x_l
            reads[-1] = torch.cat([reads[-1], out_1F])  # the last one also has w · x_l
            last = cross[-1].up
            parts = [reads[0], deep[0].weight, last.weight.T * out_1F, out_1F * last.bias]
            self.widths = [len(part) for part in parts]
            biases = [torch.zeros(self.widths[0]), deep[0].bias, torch.zeros(self.widths[2]), model.out.bias]
            self.first = _linear(torch.cat(parts), torch.cat(biases))
            ups = [(layer.up.weight, layer.up.bias + (i == 0)) for i, layer in enumerate(cross[:-1])]  # m_0 = 1
            self.ups = nn.ModuleList([_linear(weight, bias) for weight, bias in ups])
            self.reads = nn.ModuleList([_linear(weight) for weight in reads[1:]])
            self.hidden = nn.ModuleList([_linear(layer.weight, layer.bias) for layer in deep[1:]])
            self.out = _linear(deep_1X)

    def forward(self, x0_RF: Tensor) -> Tensor:
        """Scores [R]."""
        read, hidden, last, plain_R1 = torch.split(self.first(x0_RF), self.widths, dim=1)
        scores_R: Tensor = self.crossed(x0_RF, read, last, plain_R1) + self.out(self.dense(hidden))[:, 0]
        return scores_R

    def crossed(self, x0_RF: Tensor, read: Tensor, last: Tensor, plain_R1: Tensor) -> Tensor:
        """The cross layers' part of the scores [R]."""
        factor_RF: Tensor | None = None
        for up, down in zip(self.ups, self.reads, strict=True):
            factor_RF = up(read) if factor_RF is None else factor_RF + up(read)
            read = down(x0_RF * factor_RF)
        crossed_R: Tensor = (read[:, :-1] * last).sum(dim=1) + read[:, -1] + plain_R1[:, 0]
        return crossed_R

    def dense(self, hidden: Tensor) -> Tensor:
        """Output of the last dense layer [R, .]; `hidden`: output of the first one before its ReLU."""
        hidden = hidden.relu()
        for layer in self.hidden:
            hidden = layer(hidden).relu()
        return hidden


class HalfDCNv2(nn.Module):
    """FusedDCNv2 with its dense layers, which do nearly all of the arithmetic, in half precision.

    The cross layers and the last sum stay in fp32: half precision would lose most accuracy there.
    """

    def __init__(self, model: FusedDCNv2, dtype: torch.dtype) -> None:
        super().__init__()
        weights = torch.split(model.first.weight, model.widths)
        biases = torch.split(model.first.bias, model.widths)
        cross, dense = [0, 2, 3], 1
        self._dtype, self._widths = dtype, [model.widths[part] for part in cross]
        self.first = _linear(*(torch.cat([values[part] for part in cross]) for values in (weights, biases)))
        self.first_dense = _linear(weights[dense], biases[dense]).to(dtype)
        self.rest = copy.deepcopy(model)
        self.rest.hidden.to(dtype)
        del self.rest.first

    def forward(self, x0_RF: Tensor) -> Tensor:
        """Scores [R], float32 like the features."""
        read, last, plain_R1 = torch.split(self.first(x0_RF), self._widths, dim=1)
        hidden = self.rest.dense(self.first_dense(x0_RF.to(self._dtype)))
        scores_R: Tensor = self.rest.crossed(x0_RF, read, last, plain_R1) + self.rest.out(hidden.float())[:, 0]
        return scores_R


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer
