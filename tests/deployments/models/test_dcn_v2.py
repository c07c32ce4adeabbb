"""The architecture of the ranking model."""

from __future__ import annotations

import torch

from deployments.models.dcn_v2 import CrossLayer


def test_a_cross_layer_is_equation_two_of_dcn_v2() -> None:
    layer = CrossLayer(4, 2)
    x0, x = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    weight = layer.up.weight @ layer.down.weight
    expected = x0 * (x @ weight.T + layer.up.bias) + x
    torch.testing.assert_close(layer(x0, x), expected)
