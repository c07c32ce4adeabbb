"""DCN-V2 as it is served: the function of ranker.py, rearranged so that a candidate costs less. Exact but for rounding.

Every cross layer multiplies by x0, so x_l = x0 * m_l with m_0 = 1 and m_(l+1) = m_l + U_l D_l x_l + b_l. Of the last
layer only w · x_L is wanted, w being the output's weights:

    w · x_L = w · x_(L-1) + sum_r (D x_(L-1))_r (G x0)_r + (w * b) · x0    with G = U' diag(w)

So its wide half disappears, and all that reads x0 (D_0, the first dense layer, G and w * b) is one matrix product.

Shapes: R rows (candidates of any requests), F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from deployments.models.ranker import CrossLayer, DCNv2


class FusedDCNv2(nn.Module):
    """Standardised features within the clip → scores, with the weights of a trained `model`."""

    first_weight: Tensor
    first_bias: Tensor
    deep_weight: Tensor

    def __init__(self, model: DCNv2) -> None:
        super().__init__()
        cross = [layer for layer in model.cross if isinstance(layer, CrossLayer)]
        deep = [layer for layer in model.deep if isinstance(layer, nn.Linear)]
        n_features = len(model.mean_F)
        with torch.no_grad():
            out_1F, deep_1X = torch.split(model.out.weight, [n_features, deep[-1].out_features], dim=1)
            reads = [layer.down.weight for layer in cross]  # what each cross layer takes from x_l …
            reads[-1] = torch.cat([reads[-1], out_1F])  # … the last one also w · x_l
            last = cross[-1].up
            parts = [reads[0], deep[0].weight, last.weight.T * out_1F, out_1F * last.bias]
            self._widths = [len(part) for part in parts]
            biases = [torch.zeros(self._widths[0]), deep[0].bias, torch.zeros(self._widths[2]), model.out.bias]
            self.register_buffer("first_weight", torch.cat(parts))
            self.register_buffer("first_bias", torch.cat(biases))
            self.register_buffer("deep_weight", deep_1X[0].clone())
            self._depth, self._deeper = len(cross), len(deep)
            for level in range(1, self._depth):
                self.register_buffer(f"up_weight_{level}", cross[level - 1].up.weight.clone())
                self.register_buffer(f"up_bias_{level}", cross[level - 1].up.bias + (level == 1))  # m_0 = 1
                self.register_buffer(f"read_{level}", reads[level].clone())
            for level in range(1, self._deeper):
                self.register_buffer(f"deep_weight_{level}", deep[level].weight.clone())
                self.register_buffer(f"deep_bias_{level}", deep[level].bias.clone())

    def forward(self, x0_RF: Tensor) -> Tensor:
        """Scores [R]."""
        first = linear(x0_RF, self.first_weight, self.first_bias)
        read, hidden, last, plain_R1 = torch.split(first, self._widths, dim=1)
        factor_RF: Tensor | None = None
        for level in range(1, self._depth):
            grown_RF = linear(read, getattr(self, f"up_weight_{level}"), getattr(self, f"up_bias_{level}"))
            factor_RF = grown_RF if factor_RF is None else factor_RF + grown_RF
            read = linear(x0_RF * factor_RF, getattr(self, f"read_{level}"))
        hidden = hidden.relu()
        for level in range(1, self._deeper):
            hidden = linear(hidden, getattr(self, f"deep_weight_{level}"), getattr(self, f"deep_bias_{level}")).relu()
        crossed_R = (read[:, :-1] * last).sum(dim=1) + read[:, -1]
        scores_R: Tensor = crossed_R + plain_R1[:, 0] + hidden @ self.deep_weight
        return scores_R
