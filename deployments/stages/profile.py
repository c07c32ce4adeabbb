"""The profile stage: computes each user's profile, which the later stages read, from the history."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from deployments.artifact.reader import Artifact
from deployments.errors import VersionMismatch
from deployments.messages import Floats, HistoryBatch, ProfileBatch
from deployments.models.features import history_weights
from deployments.models.user_tower import TOWER_HISTORY_LENGTH, UserTower


class ProfileConfig(BaseModel):
    """When a user is no cold start."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    known_from: int = Field(1, ge=1)
    """Fewest known events of a user who is not a cold start."""


class Profiles:
    """Runs the user tower over histories (`user_tower.safetensors`)."""

    def __init__(self, artifact: Artifact, config: ProfileConfig) -> None:
        self.model_version = artifact.model_version
        self._config = config
        tensors = artifact.tensors("user_tower.safetensors")
        self._vectors_NW = tensors["history_vectors_NW"]
        self._tower = UserTower(tensors)

    def __call__(self, histories: HistoryBatch) -> ProfileBatch:
        """Profiles of B users; the vector of a cold user is 0.

        Raises:
            VersionMismatch: the histories or this stage were made with different models.
        """
        if histories.model_version != self.model_version:
            raise VersionMismatch([histories.model_version, self.model_version])
        cold_B = (histories.item_BH >= 0).sum(axis=1) < self._config.known_from
        return ProfileBatch(
            model_version=self.model_version,
            item_BH=histories.item_BH,
            weight_BH=histories.weight_BH,
            seen_BH=histories.seen_BH,
            type_BY=histories.type_BY,
            age_BY=histories.age_BY,
            user_vector_BD=np.where(cold_B[:, None], np.float32(0), self._vectors(histories)),
            features_BF=histories.features_BF,
            cold_B=cold_B,
        )

    def _vectors(self, histories: HistoryBatch) -> Floats:
        item_BL, weight_BL = history_weights.last_events(histories.item_BH, histories.weight_BH, TOWER_HISTORY_LENGTH)
        vectors_BLW = self._vectors_NW[np.maximum(item_BL, 0)]
        return self._tower(vectors_BLW, weight_BL, item_BL >= 0, histories.features_BF)
