"""The scoring stage: the ranking model over each request's candidates, as one dense batch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from deployments.errors import ConfigError, VersionMismatch
from deployments.messages import CandidateBatch, ProfileBatch, ScoreBatch, same_model
from deployments.models.artifact import Artifact
from deployments.models.features import RankingFeatures
from deployments.models.ranker import DCNv2

WEIGHTS = "ranker.safetensors"


class ScorerConfig(BaseModel):
    """How the model is run. More backends and precisions come with the packaging of compiled models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: Literal["eager"] = "eager"
    precision: Literal["fp32"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU if the replica has one."""


class Scorer:
    """Scores candidates with DCN-V2 (`ranker.safetensors`)."""

    def __init__(self, artifact: Artifact, config: ScorerConfig) -> None:
        self.model_version = artifact.model_version
        cuda = torch.cuda.is_available()
        if config.device == "cuda" and not cuda:
            raise ConfigError("scoring.device is cuda, but this replica sees no GPU; give it num_gpus, or set auto")
        self._device = torch.device("cuda" if cuda and config.device != "cpu" else "cpu")
        self._features = RankingFeatures(artifact)
        shape = artifact.manifest.settings["ranker"]
        self._model = DCNv2(len(self._features.names), **shape | {"deep": tuple(shape["deep"])})
        self._model.load_state_dict({k: torch.tensor(v) for k, v in artifact.tensors(WEIGHTS).items()})
        self._model.eval().to(self._device)

    def __call__(self, profiles: ProfileBatch, candidates: CandidateBatch) -> ScoreBatch:
        """Scores [B, K], -inf on padding.

        Raises:
            VersionMismatch: the messages or this stage were made with different models.
        """
        if (version := same_model(profiles, candidates)) != self.model_version:
            raise VersionMismatch([version, self.model_version])
        features_BKF = self._features(profiles, candidates)
        with torch.inference_mode():
            scores_BK = self._model(torch.from_numpy(features_BKF).to(self._device)).cpu().numpy()
        scores_BK = np.where(candidates.mask_BK, scores_BK, np.float32(-np.inf))
        return ScoreBatch(model_version=self.model_version, scores_BK=scores_BK)
