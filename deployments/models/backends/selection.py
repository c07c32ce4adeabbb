"""Chooses how the ranking model runs: the configured backend and precision, or a fallback where these can't run.

- `eager`: torch, operation by operation.
- `compiled`: AOTInductor code from the artifact, see compiled.py.
- `tensorrt`: an engine that each node builds, see tensorrt.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deployments.artifact.reader import Artifact
from deployments.models.backends import compiled, machine, parity_gate, tensorrt
from deployments.models.backends.precision import HALF_DTYPES, AnyPrecision, Precision, in_precision
from deployments.models.backends.row_chunks import Run, in_chunks, in_half_precision_chunks
from deployments.models.backends.unavailable import BackendUnavailable
from deployments.models.fused_dcn_v2 import FusedDCNv2

Backend = Literal["eager", "compiled", "tensorrt"]


@dataclass(frozen=True)
class RunningModel:
    """A model that runs, and where. `fallback_reason`: why not as configured; empty: as configured."""

    run: Run
    backend: str
    precision: str
    fallback_reason: str = ""


def unsupported_reason(backend: Backend, precision: AnyPrecision) -> str:
    """Why no machine supports the combination; empty if it is supported."""
    if precision == "int8" and backend != "eager":
        return f"precision int8 runs on backend eager alone, not on {backend}; use eager, or fp16"
    return ""


def precisions_to_measure(precision: AnyPrecision, device: str) -> list[Precision]:
    """The precisions that packaging builds and measures for a configured `precision`."""
    if precision != "auto":
        return [precision]
    half: list[Precision] = ["bf16"] if device == "cpu" else ["bf16", "fp16"]
    return ["fp32", *(half if machine.half_precision_support(device) else [])]


def fastest_precision(artifact: Artifact, backend: Backend, device: str) -> Precision:
    """The precision for `auto`: the fastest that passed the gate on this kind of machine, else fp32."""
    speedup: dict[Precision, float] = {"fp32": 1.0} if backend == "eager" else {}
    for precision in precisions_to_measure("auto", "cuda"):
        gate = parity_gate.find_gate(artifact, backend, precision)
        if gate is not None and gate.passed and gate.built_for == machine.signature(device, precision):
            speedup[precision] = gate.speedup
    return max(speedup, key=lambda precision: speedup[precision], default="fp32")


def select(
    artifact: Artifact, model: FusedDCNv2, backend: Backend, precision: AnyPrecision, device: str
) -> RunningModel:
    """The configured combination, or the first fallback that may serve and runs: compiled for tensorrt, then eager in
    fp32."""
    if precision == "auto":
        precision = fastest_precision(artifact, backend, device)
    chain: list[tuple[Backend, Precision]] = [(backend, precision), ("compiled", precision), ("eager", "fp32")]
    if backend != "tensorrt":
        del chain[1]
    reasons: list[str] = []
    for name, kind in dict.fromkeys(chain):
        if (name, kind) != (backend, precision) and not parity_gate.may_serve(artifact, name, kind):
            continue
        try:
            run = start(artifact, model, name, kind, device)
        except BackendUnavailable as error:
            reasons.append(f"{parity_gate.combination(name, kind)} can't run here: {error}")
            continue
        fallback = f"{parity_gate.combination(name, kind)} stands in; " if reasons else ""
        return RunningModel(run, name, kind, fallback + "; ".join(reasons))
    raise AssertionError("eager fp32 runs everywhere")


def start(artifact: Artifact, model: FusedDCNv2, backend: Backend, precision: Precision, device: str) -> Run:
    """The model on that backend, whether or not the combination passed the gate.

    Raises:
        BackendUnavailable: the combination can't run here, with the reason.
    """
    run = _start(artifact, model, backend, precision, device)
    if device != "cpu":
        return run
    if precision in HALF_DTYPES:
        return in_half_precision_chunks(run, model.first.in_features)
    return in_chunks(run, model.first.out_features)


def _start(artifact: Artifact, model: FusedDCNv2, backend: Backend, precision: Precision, device: str) -> Run:
    """As `start`; a call computes all its rows at once."""
    if backend == "eager":
        return in_precision(model, precision, device)
    gate = parity_gate.find_gate(artifact, backend, precision)
    if gate is not None and gate.unavailable:
        raise BackendUnavailable(gate.unavailable)
    if backend == "tensorrt":
        return tensorrt.load_engine(artifact, in_precision(model, precision, device), model, precision, device)
    name = compiled.file_name(precision)
    here, built_for = machine.signature(device, precision), gate.built_for if gate is not None else {}
    if name not in artifact.manifest.every_file() or built_for != here:
        raise BackendUnavailable(
            f"its code was compiled for {machine.describe(built_for)}, this is {machine.describe(here)}; "
            "run `python -m graphs package` on such a machine"
        )
    return compiled.load(artifact.path(name))
