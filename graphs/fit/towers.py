"""The trainable two-tower retrieval model (Yi et al. 2019): the score is the dot product of user and item vector.

Shapes: B users, L events of history (most recent first), N items, R of them, C item features, F user features,
D dimensions, P pools. deployments/models/user_tower.py serves the user tower; training computes the item vectors once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployments.models.byte_dropout import ByteDropout
from deployments.models.features.history_weights import SUCCESS_THRESHOLD
from deployments.models.user_tower import (
    DISLIKE_DECAY,
    NON_SUCCESS_WEIGHT,
    POOL_DECAYS,
    SMALLEST_NORM,
    TOWER_HISTORY_LENGTH,
)


class TrainableUserTower(nn.Module):
    """History and user features → user vector. Its last dimension is 1, the factor of the item's bias."""

    def __init__(self, dimension: int, n_features: int, dropout: float = 0.2) -> None:
        super().__init__()
        width, pools = dimension - 1, len(POOL_DECAYS) + 1
        self.mix_P = nn.Parameter(torch.full((pools,), 0.5))
        hidden = 2 * width
        self.mlp = nn.Sequential(
            nn.Linear(pools * width + n_features, hidden), nn.ReLU(), ByteDropout(dropout), nn.Linear(hidden, width)
        )
        self.dropout = ByteDropout(dropout)
        age_L = torch.arange(TOWER_HISTORY_LENGTH, dtype=torch.float32)
        self._decay_PL = torch.exp(-age_L / torch.tensor([*POOL_DECAYS, DISLIKE_DECAY])[:, None])
        nn.init.zeros_(self.mlp[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.mlp[-1].bias)  # type: ignore[arg-type]

    def forward(self, vectors_BLW: Tensor, weight_BL: Tensor, mask_BL: Tensor, features_BF: Tensor) -> Tensor:
        """User vectors [B, D]. `vectors_BLW`: the events' items, W = D - 1; `mask_BL`: 1 where there is an event."""
        vectors_BLW = self.dropout(vectors_BLW)
        success_BL = (weight_BL >= SUCCESS_THRESHOLD).float() * mask_BL
        other_BL = mask_BL - success_BL
        all_BL = success_BL + NON_SUCCESS_WEIGHT * other_BL
        weight_BPL = torch.stack([all_BL] * len(POOL_DECAYS) + [other_BL], dim=1)
        weight_BPL = weight_BPL * self._decay_PL[:, : weight_BL.shape[1]]
        norm_BP1 = weight_BPL.pow(2).sum(2, keepdim=True).sqrt() + SMALLEST_NORM
        pooled_BPW = weight_BPL @ vectors_BLW / norm_BP1
        known_BX = torch.cat([pooled_BPW.flatten(1), features_BF], dim=1)
        user_BW = (pooled_BPW * self.mix_P[None, :, None]).sum(1) + self.mlp(known_BX)
        return torch.cat([user_BW, torch.ones(len(user_BW), 1)], dim=1)


class ItemTower(nn.Module):
    """Item id and features → the vector for retrieval, and the vector of the item within a history."""

    def __init__(self, n_items: int, n_features: int, dimension: int, log_popularity_N: Tensor) -> None:
        super().__init__()
        width = dimension - 1
        self.embedding_NW = nn.Parameter(torch.randn(n_items, width) * 0.05)
        self.item_CW = nn.Parameter(torch.randn(n_features, width) * 0.05)
        self.history_CW = nn.Parameter(torch.randn(n_features, width) * 0.05)
        self.bias_N = nn.Parameter(log_popularity_N.clone())

    def forward(self, features_NC: Tensor, item_R: Tensor) -> Tensor:
        """Vectors [R, D] of some items; the last dimension is the item's bias."""
        vectors_RW = self.embedding_NW[item_R] + features_NC[item_R] @ self.item_CW
        return torch.cat([vectors_RW, self.bias_N[item_R, None]], dim=1)

    def in_history(self, features_NC: Tensor, item_R: Tensor) -> Tensor:
        """The vectors [R, D - 1] of some items that the user tower pools."""
        return self.embedding_NW[item_R] + features_NC[item_R] @ self.history_CW
