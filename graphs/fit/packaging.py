"""Packaging: builds faster ways of scoring, measures each against the plain model, and records them in the artifact."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rich.console import Console

from deployments.artifact.writer import ArtifactWriter
from deployments.models.backends import compiled, machine
from deployments.models.backends.parity_gate import PLAIN, Gate, combination
from deployments.models.backends.precision import AnyPrecision, Precision
from deployments.models.backends.selection import Backend, precisions_to_measure
from deployments.models.backends.unavailable import BackendUnavailable
from deployments.models.fused_dcn_v2 import FusedDCNv2
from deployments.stages import warm_up
from deployments.stages.scoring import load_ranker
from graphs.evaluation.held_out import HeldOutRequests
from graphs.evaluation.parity_measurement import measure_parity

Combination = tuple[Backend, Precision]


def combinations(backend: Backend, precision: AnyPrecision) -> list[Combination]:
    """The combinations that `backend` and `precision` of a configuration stand for on this machine."""
    return [(backend, each) for each in precisions_to_measure(precision, _device())]


def package(writer: ArtifactWriter, held_out: HeldOutRequests, wanted: Sequence[Combination], console: Console) -> None:
    """Adds the messages for the warm-up, and for each combination its gate and its compiled code.

    A combination that can't be built here is recorded with the reason. The console shows every result.
    """
    artifact = writer.preview()
    warm_up.write_recording(writer, held_out.recorded)
    device = _device()
    model = load_ranker(artifact)
    for backend, precision in wanted:
        if (backend, precision) == PLAIN:
            continue
        name, built_for = combination(backend, precision), machine.signature(device, precision)
        try:
            if backend == "compiled":
                compiled.compile_to(writer.derived(compiled.file_name(precision)), FusedDCNv2(model), precision, device)
            writer.gates[name] = {"built_for": built_for}  # a preview without it could not load the compiled code
            gate = measure_parity(writer.preview(), held_out, backend, precision, device)
        except BackendUnavailable as error:
            gate = Gate(unavailable=str(error))
        writer.gates[name] = gate.model_dump(mode="json")
        console.print(f"scoring {name}: {gate}")


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
