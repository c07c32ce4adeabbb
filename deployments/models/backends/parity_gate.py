"""The parity gate: which combinations of backend and precision may serve, by the measurements of packaging.

The plain model is the trained one in fp32. A combination passes if its top ten share MIN_OVERLAP with the plain
model's, and its NDCG@10 on held-out requests is at most MAX_LOSS (relative) below the plain model's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from deployments.artifact.reader import Artifact
from deployments.errors import ConfigError

MIN_OVERLAP = 0.99
"""Least mean share of the plain model's ten best among the combination's ten best."""

MAX_LOSS = 0.001
"""Most relative loss of NDCG@10."""

PLAIN: tuple[Literal["eager"], Literal["fp32"]] = ("eager", "fp32")
"""Always passes: the trained model, rearranged (fused_dcn_v2.py)."""


class Gate(BaseModel):
    """The measurements of one combination; an entry of the manifest's `gates`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    requests: int = 0
    """Held-out requests that were measured."""
    overlap: float = 0.0
    """Mean share of the plain model's ten best among the combination's ten best."""
    ndcg: float = 0.0
    """NDCG@10 of the combination."""
    plain_ndcg: float = 0.0
    """NDCG@10 of the plain model."""
    speedup: float = 0.0
    """Median speed relative to eager fp32 on the same machine, over batches of held-out requests; 0: not measured."""
    built_for: dict[str, str] = {}
    """The machine and torch version of the measurement; compiled code runs only where these are equal."""
    unavailable: str = ""
    """Why packaging could not build the combination; then nothing was measured."""

    @property
    def loss(self) -> float:
        """Relative loss of NDCG@10; negative: a gain."""
        return (self.plain_ndcg - self.ndcg) / self.plain_ndcg if self.plain_ndcg else 0.0

    @property
    def passed(self) -> bool:
        """Whether it may serve."""
        return not self.unavailable and self.overlap >= MIN_OVERLAP and self.loss <= MAX_LOSS

    def __str__(self) -> str:
        if self.unavailable:
            return f"not made: {self.unavailable}"
        verdict = "passed" if self.passed else "failed"
        speed = f", {self.speedup:.2f} times as fast as eager fp32" if self.speedup else ""
        return (
            f"{verdict}: top-10 overlap {self.overlap:.4f} (at least {MIN_OVERLAP}), NDCG@10 loss {self.loss:.3%} "
            f"(at most {MAX_LOSS:.1%}) on {self.requests} requests{speed}"
        )


def combination(backend: str, precision: str) -> str:
    """The key in the manifest's `gates`."""
    return f"{backend}-{precision}"


def find_gate(artifact: Artifact, backend: str, precision: str) -> Gate | None:
    """The measurements of the combination, if packaging made any."""
    entry = artifact.manifest.gates.get(combination(backend, precision))
    return None if entry is None else Gate.model_validate(entry)


def may_serve(artifact: Artifact, backend: str, precision: str) -> bool:
    """Whether the combination may serve. `auto` needs the gate of fp32, its last choice."""
    precision = "fp32" if precision == "auto" else precision
    gate = find_gate(artifact, backend, precision)
    return (backend, precision) == PLAIN or (gate is not None and gate.passed)


def require_passed(artifact: Artifact, backend: str, precision: str) -> None:
    """Refuses a combination that must not serve. One that packaging could not build is left to the fallback backend.

    Raises:
        ConfigError: the combination failed the gate, or was not measured; with the numbers and the remedy.
    """
    if may_serve(artifact, backend, precision):
        return
    precision = "fp32" if precision == "auto" else precision
    gate = find_gate(artifact, backend, precision)
    configured = f"scoring: backend {backend}, precision {precision}"
    if gate is None:
        raise ConfigError(
            f"{configured} was not gated for model {artifact.model_version}; run `python -m graphs package ARTIFACT "
            f"--backend {backend} --precision {precision}`, or use backend eager, precision fp32"
        )
    if not gate.unavailable:
        raise ConfigError(f"{configured} {gate}; use another combination, such as backend eager, precision fp32")
