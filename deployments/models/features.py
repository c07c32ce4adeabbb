"""The ranker's features: sources, user, item, and how the item compares with the user's history.

Shapes: B requests, K candidates, H events, S sources, C content values (genres, …), A item attributes (numeric ones,
popularity, quality), F features in all. The same code makes the training data and serves.
"""

from __future__ import annotations

import numpy as np

from deployments.messages import Array, Bools, CandidateBatch, Floats, Ints, ProfileBatch
from deployments.models import history
from deployments.models.artifact import Artifact
from deployments.models.sources import READ

DECAYS = {"short": 5.0, "long": 30.0}
"""Of the history summaries, in events."""


class RankingFeatures:
    """Builds [B, K, F] from messages and `item_features.safetensors`.

    content_NC: 1 where an item has the value. attributes_NA: standardised numeric attributes, then log popularity
    among successes and mean weight. log_events_N: log of all events.
    """

    def __init__(self, artifact: Artifact) -> None:
        tensors = artifact.tensors("item_features.safetensors")
        self._content_NC: Floats = tensors["content_NC"]
        self._attributes_NA: Floats = tensors["attributes_NA"]
        self._log_events_N: Floats = tensors["log_events_N"]
        self._spread_N = np.sqrt(np.maximum(self._content_NC.sum(axis=1), 1))
        schema = artifact.manifest.feature_schema
        self.names = feature_names(schema["sources"], schema["users"], schema["attributes"])

    def __call__(self, profiles: ProfileBatch, candidates: CandidateBatch) -> Floats:
        """Features [B, K, F], in the order of `names`; garbage where the candidate is padding."""
        item_BK = np.maximum(candidates.item_ids_BK, 0)
        features_BKF = np.empty((*item_BK.shape, len(self.names)), np.float32)
        end = 0

        def put(columns: Array) -> None:
            """Appends [B, K, X], or what broadcasts to it."""
            nonlocal end
            width = columns.shape[-1]
            features_BKF[:, :, end : end + width] = columns
            end += width

        put(candidates.source_scores_BKS)
        content_BKC = self._content_NC[item_BK]
        attributes_BKA = self._attributes_NA[item_BK]
        spread_BK = self._spread_N[item_BK]
        recent = _Recent(profiles)
        for decay in DECAYS.values():
            liked = recent.summary(decay, recent.success_BL, self._content_NC)
            other = recent.summary(decay, ~recent.success_BL, self._content_NC)
            every = recent.summary(decay, np.ones_like(recent.success_BL), self._attributes_NA)
            total_B1 = liked.mass_B1 + other.mass_B1 + 1
            contrast_BC = (liked.mean_BX * liked.mass_B1 - other.mean_BX * other.mass_B1) / total_B1
            put(np.einsum("bkc,bc->bk", content_BKC, liked.mean_BX)[..., None] / spread_BK[..., None])
            put(np.einsum("bkc,bc->bk", content_BKC, contrast_BC)[..., None] / spread_BK[..., None])
            difference_BKA = attributes_BKA - every.mean_BX[:, None, :]
            put(difference_BKA)
            put(np.abs(difference_BKA[..., : self._attributes_NA.shape[1] - 2]))
            put(every.mean_BX[:, None, :])
            put((liked.mass_B1 / np.maximum(every.mass_B1, 1e-6))[:, None, :])

        put((np.log1p(recent.length_B) / 3 - 1.2)[:, None, None])
        put(profiles.features_BF[:, None, :])
        put(attributes_BKA)
        put(self._log_events_N[item_BK][..., None] / 3 - 1)
        assert end == len(self.names)
        return features_BKF


class _Summary:
    """A decayed mean over events: `mean_BX`, and the weight behind it."""

    def __init__(self, weight_BL: Floats, values_BLX: Floats) -> None:
        self.mass_B1 = weight_BL.sum(axis=1, keepdims=True)
        self.mean_BX = np.einsum("bl,blx->bx", weight_BL, values_BLX) / np.maximum(self.mass_B1, 1e-6)


class _Recent:
    """The last READ events of each user, most recent first."""

    def __init__(self, profiles: ProfileBatch) -> None:
        column_BL, item_BL = history.last(profiles.item_BH, min(READ, max(1, profiles.item_BH.shape[1])))
        self._mask_BL: Bools = item_BL >= 0
        self._item_BL: Ints = np.maximum(item_BL, 0)
        weight_BL = np.zeros(item_BL.shape, np.float32)
        if profiles.weight_BH.shape[1]:
            weight_BL = np.take_along_axis(profiles.weight_BH, column_BL.astype(np.intp), axis=1)
        self.success_BL: Bools = weight_BL >= history.POSITIVE
        self.length_B = (profiles.item_BH >= 0).sum(axis=1).astype(np.float32)

    def summary(self, decay: float, chosen_BL: Bools, values_NX: Floats) -> _Summary:
        """Of the chosen events, an event `age` events old counting exp(-age / decay)."""
        age_L = np.arange(self._item_BL.shape[1], dtype=np.float32)
        weight_BL = np.exp(-age_L / np.float32(decay)) * (self._mask_BL & chosen_BL)
        return _Summary(weight_BL.astype(np.float32), values_NX[self._item_BL])


def feature_names(sources: list[str], users: list[str], attributes: list[str]) -> list[str]:
    """Names of the F features, in order. `attributes` ends with popularity and quality, which have no |difference|."""
    names = [f"score:{s}" for s in sources]
    for decay in DECAYS:
        names += [f"content_liked:{decay}", f"content_contrast:{decay}"]
        names += [f"difference:{a}:{decay}" for a in attributes]
        names += [f"distance:{a}:{decay}" for a in attributes[:-2]]
        names += [f"user_mean:{a}:{decay}" for a in attributes]
        names += [f"user_success:{decay}"]
    return [*names, "user_events", *(f"user:{u}" for u in users), *(f"item:{a}" for a in attributes), "item:log_events"]
