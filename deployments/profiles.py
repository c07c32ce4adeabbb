"""The profile stage: a user's history becomes the profile that the later stages read."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import VersionMismatch
from deployments.messages import Floats, HistoryBatch, ProfileBatch
from deployments.models import history
from deployments.models.artifact import Artifact
from deployments.models.two_tower import HISTORY, UserTower


class ProfileConfig(BaseModel):
    """When a user counts as known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    known_from: int = Field(1, ge=1, description="Known events from which on a user is not a cold start.")


class Profiles:
    """Runs the user tower over histories (`user_tower.safetensors`)."""

    def __init__(self, artifact: Artifact, config: ProfileConfig) -> None:
        self.model_version = artifact.model_version
        self._config = config
        tensors = artifact.tensors("user_tower.safetensors")
        self._vectors_NW = tensors["history_vectors_NW"]
        self._tower = UserTower(self._vectors_NW.shape[1] + 1, len(artifact.manifest.feature_schema["users"])).eval()
        weights = {name: torch.tensor(value) for name, value in tensors.items() if name != "history_vectors_NW"}
        self._tower.load_state_dict(weights)

    def __call__(self, histories: HistoryBatch) -> ProfileBatch:
        """Profiles of B users; the vector of a cold one is 0."""
        if histories.model_version != self.model_version:
            raise VersionMismatch([histories.model_version, self.model_version])
        cold_B = (histories.item_BH >= 0).sum(axis=1) < self._config.known_from
        return ProfileBatch(
            model_version=self.model_version,
            item_BH=histories.item_BH,
            weight_BH=histories.weight_BH,
            user_vector_BD=np.where(cold_B[:, None], np.float32(0), self._vectors(histories)),
            features_BF=histories.features_BF,
            cold_B=cold_B,
        )

    def _vectors(self, histories: HistoryBatch) -> Floats:
        column_BL, item_BL = history.last(histories.item_BH, HISTORY)
        weight_BL = np.zeros(item_BL.shape, np.float32)
        if histories.weight_BH.shape[1]:
            weight_BL = np.take_along_axis(histories.weight_BH, column_BL.astype(np.intp), axis=1)
        with torch.inference_mode():
            vectors: Floats = self._tower(
                torch.from_numpy(self._vectors_NW[np.maximum(item_BL, 0)]),
                torch.from_numpy(weight_BL),
                torch.from_numpy((item_BL >= 0).astype(np.float32)),
                torch.from_numpy(histories.features_BF.astype(np.float32)),
            ).numpy()
        return vectors
