"""The scoring stage: the ranking model over the candidates of all requests, as one dense batch."""

from __future__ import annotations

import logging
from typing import Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, model_validator

from deployments.artifact.reader import Artifact
from deployments.errors import ConfigError, VersionMismatch
from deployments.messages import CandidateBatch, ProfileBatch, ScoreBatch, same_model
from deployments.models.backends import parity_gate
from deployments.models.backends.precision import AnyPrecision
from deployments.models.backends.selection import Backend, select, unsupported_reason
from deployments.models.dcn_v2 import CLIP, DCNv2
from deployments.models.features.feature_kernels import Standardisation
from deployments.models.features.ranking_features import RankingFeatures
from deployments.models.fused_dcn_v2 import FusedDCNv2

log = logging.getLogger("rayfunnel.scoring")

WEIGHTS = "ranker.safetensors"


def load_ranker(artifact: Artifact) -> DCNv2:
    """The ranking model of an artifact, as it was trained."""
    weights = {name: torch.tensor(value) for name, value in artifact.tensors(WEIGHTS).items()}
    shape = artifact.manifest.settings["ranker"]
    model = DCNv2(len(weights["mean_F"]), **shape | {"deep": tuple(shape["deep"])})
    model.load_state_dict(weights)
    return model.eval()


def standardisation(model: DCNv2) -> Standardisation:
    """The standardisation that the model was trained with."""
    return Standardisation(model.mean_F.numpy(), model.scale_F.numpy(), CLIP)


class ScorerConfig(BaseModel):
    """How the model runs. Every combination except eager fp32 must have passed the parity gate at packaging."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    backend: Backend = "eager"
    """`eager`: torch, operation by operation; `compiled`: code that packaging made; `tensorrt`: engines of a GPU. Where
    the last two can't run, `eager` is the fallback."""
    precision: AnyPrecision = "fp32"
    """Type of the dense layers. `auto`: the fastest of `fp32`, `bf16` and `fp16` that passed the gate on such a
    machine."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto`: the GPU if the replica has one."""

    @model_validator(mode="after")
    def _supported(self) -> Self:
        if reason := unsupported_reason(self.backend, self.precision):
            raise ValueError(reason)
        return self


class Scorer:
    """Scores candidates with DCN-V2 (`ranker.safetensors`)."""

    def __init__(self, artifact: Artifact, config: ScorerConfig) -> None:
        self.model_version = artifact.model_version
        cuda = torch.cuda.is_available()
        if config.device == "cuda" and not cuda:
            raise ConfigError("scoring.device is cuda, but this replica sees no GPU; give it num_gpus, or set auto")
        parity_gate.require_passed(artifact, config.backend, config.precision)
        self._device = "cuda" if cuda and config.device != "cpu" else "cpu"
        model = load_ranker(artifact)
        self.features = RankingFeatures(artifact, standardisation(model))
        self.running = select(artifact, FusedDCNv2(model), config.backend, config.precision, self._device)
        log.info("scoring: %s", parity_gate.combination(self.running.backend, self.running.precision))
        if self.running.fallback_reason:
            log.warning("scoring: %s", self.running.fallback_reason)

    def __call__(self, profiles: ProfileBatch, candidates: CandidateBatch) -> ScoreBatch:
        """Scores [B, K], -inf on padding.

        Raises:
            VersionMismatch: the messages or this stage were made with different models.
        """
        if (version := same_model(profiles, candidates)) != self.model_version:
            raise VersionMismatch([version, self.model_version])
        rows_RF = self.features.rows(profiles, candidates)
        scores_BK = np.full(candidates.mask_BK.shape, -np.inf, np.float32)
        if len(rows_RF):
            with torch.inference_mode():
                scores_R = self.running.run(torch.from_numpy(rows_RF).to(self._device))
            scores_BK[candidates.mask_BK] = scores_R.cpu().numpy()
        ran_on = parity_gate.combination(self.running.backend, self.running.precision)
        return ScoreBatch(self.model_version, scores_BK, ran_on, self.running.fallback_reason)
