"""The parity gate: which combinations of backend and precision may serve, by what packaging measured.

The plain model is the trained one in fp32. A combination passes if its ten best are the plain model's ten best, but for
OVERLAP, and if its NDCG@10 on held-out requests is at most LOSS (relative) below.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from deployments.artifact.reader import Artifact
from deployments.errors import ConfigError

OVERLAP = 0.99
LOSS = 0.001
PLAIN: tuple[Literal["eager"], Literal["fp32"]] = ("eager", "fp32")
"""Needs no gate: the trained model, rearranged (fused.py)."""


class Gate(BaseModel):
    """What packaging found out about one combination; an entry of the manifest's `gates`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: int = 0
    overlap: float = 0.0
    """Mean share of the plain model's ten best that are among this one's."""
    ndcg: float = 0.0
    plain_ndcg: float = 0.0
    speedup: float = 0.0
    """Of the held-out requests' scoring, batch by batch, over eager fp32's on the same machine; 0: not measured."""
    built_for: dict[str, str] = {}
    """The machine and torch version where it was measured: compiled code is for these alone."""
    unavailable: str = ""
    """Why it could not be made where the artifact was packaged; it was not measured then."""

    @property
    def loss(self) -> float:
        """Relative loss of NDCG@10; negative: it is better."""
        return (self.plain_ndcg - self.ndcg) / self.plain_ndcg if self.plain_ndcg else 0.0

    @property
    def passed(self) -> bool:
        """Whether it may serve."""
        return not self.unavailable and self.overlap >= OVERLAP and self.loss <= LOSS

    def __str__(self) -> str:
        if self.unavailable:
            return f"not made: {self.unavailable}"
        verdict = "passed" if self.passed else "failed"
        speed = f", {self.speedup:.2f} times as fast as eager fp32" if self.speedup else ""
        return (
            f"{verdict}: top-10 overlap {self.overlap:.4f} (at least {OVERLAP}), NDCG@10 loss {self.loss:.3%} "
            f"(at most {LOSS:.1%}) on {self.requests} requests{speed}"
        )


def combination(backend: str, precision: str) -> str:
    """The key in the manifest's `gates`."""
    return f"{backend}-{precision}"


def find(artifact: Artifact, backend: str, precision: str) -> Gate | None:
    """What packaging found out about the combination, if it was asked to."""
    entry = artifact.manifest.gates.get(combination(backend, precision))
    return None if entry is None else Gate.model_validate(entry)


def allowed(artifact: Artifact, backend: str, precision: str) -> bool:
    """Whether the combination may serve; `auto` may where fp32 may, which it stands for in the end."""
    precision = "fp32" if precision == "auto" else precision
    gate = find(artifact, backend, precision)
    return (backend, precision) == PLAIN or (gate is not None and gate.passed)


def check(artifact: Artifact, backend: str, precision: str) -> None:
    """Refuses a combination that must not serve. One that could not be made is left to the fallback.

    Raises:
        ConfigError: it failed the gate, or was not gated: the numbers and the remedy.
    """
    if allowed(artifact, backend, precision):
        return
    precision = "fp32" if precision == "auto" else precision
    gate = find(artifact, backend, precision)
    asked = f"scoring: backend {backend}, precision {precision}"
    if gate is None:
        raise ConfigError(
            f"{asked} was not gated for model {artifact.model_version}; run `python -m graphs package ARTIFACT "
            f"--backend {backend} --precision {precision}`, or use backend eager, precision fp32"
        )
    if not gate.unavailable:
        raise ConfigError(f"{asked} {gate}; use another combination, such as backend eager, precision fp32")
