"""What is known of users besides their events (users.parquet at training time), looked up by user id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.artifact.reader import Artifact
from deployments.messages import PAD, Floats, Ints

IDS = "users.arrow"
FEATURES = "user_features.safetensors"


class UserFeatures:
    """Features [B, F] of users; 0 for users of whom none are known. F is 0 if the artifact has none at all."""

    def __init__(self, artifact: Artifact) -> None:
        self.names: list[str] = artifact.manifest.feature_schema["users"]
        self._rows: dict[str, int] = {}
        self._features_UF: Floats = np.zeros((0, len(self.names)), np.float32)
        if self.names:
            ids = artifact.table(IDS).column("user_id").to_pylist()
            self._rows = dict(zip(ids, range(len(ids)), strict=True))
            self._features_UF = artifact.tensors(FEATURES)["features_UF"]

    def __call__(self, user_ids: Sequence[str]) -> Floats:
        """The features of `user_ids`."""
        if not self.names:
            return np.zeros((len(user_ids), 0), np.float32)
        row_B: Ints = np.array([self._rows.get(user_id, PAD) for user_id in user_ids], np.int32)
        return np.where(row_B[:, None] >= 0, self._features_UF[row_B], np.float32(0))
