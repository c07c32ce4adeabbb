"""The user tower of the two-tower retrieval model (Yi et al. 2019) in serving; graphs/fit/towers.py trains it.

It pools the history's item vectors at several decays and adds the output of an MLP over the pools. There is no user id,
so an event changes the vector at once. In NumPy: for so little arithmetic torch is slower, and takes seconds to load.

Shapes: B users, L events of history (most recent first), D dimensions, W = D - 1, P pools, F user features, I inputs of
the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deployments.messages import Bools, Floats
from deployments.models.features.history_weights import SUCCESS_THRESHOLD

TOWER_HISTORY_LENGTH = 50
"""Most recent events that the tower reads."""

POOL_DECAYS = (3.0, 10.0, 40.0)
"""Decays of the pools of all events, in events."""

DISLIKE_DECAY = 20.0
"""Decay of the extra pool of unsuccessful events, in events."""

NON_SUCCESS_WEIGHT = 0.4
"""Weight of an unsuccessful event in the pools of all events; a success has 1."""

SMALLEST_NORM = 1e-3
"""Added to a pool's norm."""


class UserTower:
    """History and user features → vector. `tensors`: the state of `graphs.fit.towers.TrainableUserTower`, by name."""

    def __init__(self, tensors: Mapping[str, Floats]) -> None:
        self._mix_P1 = tensors["mix_P"][:, None]
        names = [(f"mlp.{layer}.weight", f"mlp.{layer}.bias") for layer in (0, 3)]  # a ReLU and a dropout between
        self._layers = [(np.ascontiguousarray(tensors[weight].T), tensors[bias]) for weight, bias in names]
        decay_P1 = np.array([*POOL_DECAYS, DISLIKE_DECAY], np.float32)[:, None]
        self._decay_PL = np.exp(-np.arange(TOWER_HISTORY_LENGTH, dtype=np.float32) / decay_P1)

    def __call__(self, vectors_BLW: Floats, weight_BL: Floats, is_event_BL: Bools, features_BF: Floats) -> Floats:
        """User vectors [B, D]; the last dimension is 1 and multiplies the item's bias.

        `vectors_BLW`: the vectors of the events' items; L is at most TOWER_HISTORY_LENGTH.
        """
        success_BL = (weight_BL >= SUCCESS_THRESHOLD) & is_event_BL
        other_BL = (success_BL != is_event_BL).astype(np.float32)
        weight_BPL = np.empty((len(weight_BL), len(self._decay_PL), weight_BL.shape[1]), np.float32)
        weight_BPL[:, :-1] = (success_BL + NON_SUCCESS_WEIGHT * other_BL)[:, None, :]
        weight_BPL[:, -1] = other_BL
        weight_BPL *= self._decay_PL[:, : weight_BL.shape[1]]
        norm_BP = np.sqrt(np.einsum("bpl,bpl->bp", weight_BPL, weight_BPL))
        pooled_BPW = weight_BPL @ vectors_BLW / (norm_BP + np.float32(SMALLEST_NORM))[:, :, None]
        (first_IH, bias_H), (second_HW, bias_W) = self._layers
        pools, width = pooled_BPW.shape[1:]
        pooled_BI = pooled_BPW.reshape(-1, pools * width)
        input_BI = np.concatenate([pooled_BI, features_BF], axis=1, dtype=np.float32)
        hidden_BH = np.maximum(input_BI @ first_IH + bias_H, 0)
        user_BD = np.ones((len(input_BI), width + 1), np.float32)
        user_BD[:, :-1] = (pooled_BPW * self._mix_P1).sum(axis=1) + (hidden_BH @ second_HW + bias_W)
        return user_BD
