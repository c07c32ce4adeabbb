"""The features of users besides their events (users.parquet at training time), by user id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.artifact.reader import Artifact
from deployments.messages import PAD, Floats, Ints
from deployments.models.features.schema import Schema

IDS_FILE = "users.arrow"
FEATURES_FILE = "user_features.safetensors"


class UserFeatures:
    """Features [B, F] of users; 0 for users without features. F is 0 if the artifact has no user features."""

    def __init__(self, artifact: Artifact) -> None:
        self.names = Schema.load(artifact).user_features
        self._rows: dict[str, int] = {}
        self._features_UF: Floats = np.zeros((0, len(self.names)), np.float32)
        if self.names:
            ids = artifact.table(IDS_FILE).column("user_id").to_pylist()
            self._rows = dict(zip(ids, range(len(ids)), strict=True))
            self._features_UF = artifact.tensors(FEATURES_FILE)["features_UF"]

    def __call__(self, user_ids: Sequence[str]) -> Floats:
        """float32 [B, F]: the features of `user_ids`."""
        if not self.names:
            return np.zeros((len(user_ids), 0), np.float32)
        row_B: Ints = np.array([self._rows.get(user_id, PAD) for user_id in user_ids], np.int32)
        return np.where(row_B[:, None] >= 0, self._features_UF[row_B], np.float32(0))
