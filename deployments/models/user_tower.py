"""The user's half of the two-tower retrieval model (Yi et al. 2019), as it is served; graphs/fit/towers.py trains it.

It pools the history's item vectors at several decays and adds what an MLP makes of the pools; there is no user id, so
an event changes the vector at once. In NumPy: for so little arithmetic torch is slower, and takes seconds to load.

Shapes: B users, L events of history (most recent first), D dimensions, W = D - 1, P pools, F user features, I inputs of
the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deployments.messages import Bools, Floats
from deployments.models.features.history_weights import POSITIVE

HISTORY = 50
"""Events the tower reads."""

DECAYS = (3.0, 10.0, 40.0)
"""Of the pools of all events, in events."""

DISLIKE_DECAY = 20.0
"""Of the extra pool of events that were no success."""

WEAK = 0.4
"""What an event that was no success counts for in the pools of all, next to 1."""

SMALLEST_NORM = 1e-3
"""Added to a pool's norm."""


class UserTower:
    """History and user features → vector. `tensors`: the state of `graphs.fit.towers.UserTower`, by name."""

    def __init__(self, tensors: Mapping[str, Floats]) -> None:
        self._mix_P1 = tensors["mix_P"][:, None]
        names = [(f"mlp.{layer}.weight", f"mlp.{layer}.bias") for layer in (0, 3)]  # a ReLU and a dropout between
        self._layers = [(np.ascontiguousarray(tensors[weight].T), tensors[bias]) for weight, bias in names]
        decay_P1 = np.array([*DECAYS, DISLIKE_DECAY], np.float32)[:, None]
        self._fading_PL = np.exp(-np.arange(HISTORY, dtype=np.float32) / decay_P1)

    def __call__(self, vectors_BLW: Floats, weight_BL: Floats, is_event_BL: Bools, features_BF: Floats) -> Floats:
        """User vectors [B, D], the last dimension 1, to meet the item's bias. `vectors_BLW`: the events' items; L is
        at most HISTORY."""
        success_BL = (weight_BL >= POSITIVE) & is_event_BL
        other_BL = (success_BL != is_event_BL).astype(np.float32)
        weight_BPL = np.empty((len(weight_BL), len(self._fading_PL), weight_BL.shape[1]), np.float32)
        weight_BPL[:, :-1] = (success_BL + WEAK * other_BL)[:, None, :]
        weight_BPL[:, -1] = other_BL
        weight_BPL *= self._fading_PL[:, : weight_BL.shape[1]]
        norm_BP = np.sqrt(np.einsum("bpl,bpl->bp", weight_BPL, weight_BPL))
        pooled_BPW = weight_BPL @ vectors_BLW / (norm_BP + np.float32(SMALLEST_NORM))[:, :, None]
        (first_IH, bias_H), (second_HW, bias_W) = self._layers
        pools, width = pooled_BPW.shape[1:]
        pooled_BI = pooled_BPW.reshape(-1, pools * width)
        known_BI = np.concatenate([pooled_BI, features_BF], axis=1, dtype=np.float32)
        hidden_BH = np.maximum(known_BI @ first_IH + bias_H, 0)
        user_BD = np.ones((len(known_BI), width + 1), np.float32)
        user_BD[:, :-1] = (pooled_BPW * self._mix_P1).sum(axis=1) + (hidden_BH @ second_HW + bias_W)
        return user_BD
