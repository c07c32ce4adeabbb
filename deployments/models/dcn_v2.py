"""The ranking model: DCN-V2 (Wang et al. 2021, https://arxiv.org/abs/2008.13535) with low-rank cross layers.

Shapes: B requests, K candidates, F features.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from deployments.models.byte_dropout import ByteDropout

CLIP = 5.0
"""Standardised features are clipped to so many standard deviations."""


class CrossLayer(nn.Module):
    """x0 * (V U x + b) + x: DCN-V2, equation 2."""

    def __init__(self, n_features: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(n_features, rank, bias=False)
        self.up = nn.Linear(rank, n_features)
        nn.init.normal_(self.up.weight, std=0.02)
        nn.init.zeros_(self.up.bias)

    def forward(self, x0_BKF: Tensor, x_BKF: Tensor) -> Tensor:
        """One more order of feature crossing."""
        crossed: Tensor = x0_BKF * self.up(self.down(x_BKF)) + x_BKF
        return crossed


class DCNv2(nn.Module):
    """Features → score. Parallel cross and deep networks; the standardisation is part of the model."""

    mean_F: Tensor
    scale_F: Tensor

    def __init__(
        self,
        n_features: int,
        cross_layers: int = 2,
        cross_rank: int = 32,
        deep: tuple[int, ...] = (64, 32),
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(n_features))
        self.register_buffer("scale_F", torch.ones(n_features))
        self.cross = nn.ModuleList([CrossLayer(n_features, cross_rank) for _ in range(cross_layers)])
        widths = (n_features, *deep)
        layers: list[nn.Module] = []
        for below, above in itertools.pairwise(widths):
            layers += [nn.Linear(below, above), nn.ReLU(), ByteDropout(dropout)]
        self.deep = nn.Sequential(*layers)
        self.dropout = ByteDropout(dropout)
        self.out = nn.Linear(n_features + widths[-1], 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, features_BKF: Tensor) -> Tensor:
        """Scores [B, K]: logits of a softmax over a request's candidates."""
        x0_BKF = ((features_BKF - self.mean_F) * self.scale_F).clamp(-CLIP, CLIP)
        x_BKF = x0_BKF
        for layer in self.cross:
            x_BKF = layer(x0_BKF, x_BKF)
        joined = torch.cat([self.dropout(x_BKF), self.deep(x0_BKF)], dim=-1)
        scores_BK: Tensor = self.out(joined)[..., 0]
        return scores_BK
