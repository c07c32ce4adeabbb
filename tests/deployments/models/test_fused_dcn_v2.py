"""The fused ranking model against the trained one."""

from __future__ import annotations

import pytest
import torch

from deployments.models.dcn_v2 import DCNv2
from deployments.models.fused_dcn_v2 import FusedDCNv2


@pytest.mark.parametrize(("cross_layers", "deep"), [(1, (8,)), (2, (16, 8)), (4, (16, 8, 4))])
def test_the_fused_model_gives_the_scores_of_the_trained_one_at_any_depth(
    cross_layers: int, deep: tuple[int, ...]
) -> None:
    torch.manual_seed(3)
    model = DCNv2(11, cross_layers, 5, deep).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        x_RF = torch.randn(40, 11)  # within the clip
        torch.testing.assert_close(FusedDCNv2(model)(x_RF), model(x_RF[None])[0], rtol=1e-4, atol=1e-5)
