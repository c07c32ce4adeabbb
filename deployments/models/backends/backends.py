"""How the ranking model runs: backend and precision as config words, and what stands in where one can't be had.

Precisions: `fp32`; `bf16` and `fp16`: the dense layers' (HalfDCNv2); `int8`: the dense layers' after the first; `auto`:
of fp32, bf16 and fp16 the fastest that passed the gate on this kind of machine.

- `eager`: torch, operation by operation. `int8` is dynamic quantisation with torch's own x86 kernels (FBGEMM, oneDNN).
- `compiled`: code that packaging made with AOTInductor, for any number of rows; an artifact file.
- `tensorrt`: tensorrt.py.

Shapes: R rows, F features.
"""

from __future__ import annotations

import copy
import os
import platform
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deployments.artifact.reader import Artifact
from deployments.models.backends import parity_gate, tensorrt
from deployments.models.backends.unavailable import BackendUnavailable
from deployments.models.fused_dcn_v2 import FusedDCNv2, HalfDCNv2

Backend = Literal["eager", "compiled", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
AnyPrecision = Precision | Literal["auto"]
Run = Callable[[Tensor], Tensor]
"""Standardised features [R, F] on the device → float32 scores [R]."""

RUNNERS = 4
"""Threads that may be inside one compiled model."""

PART_BYTES = 2 << 20
"""Of the first layer's output for the rows that a CPU computes at a time: it stays in the core's cache, and its memory
is used again instead of being mapped anew."""

HALF_ROWS, HALF_STEP = 4096, 256
"""Rows that a CPU computes at a time in half precision, where products are over so soon that a call's own cost shows,
and what the last part is filled up to a multiple of: oneDNN generates code for each number of rows."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MARCH = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}
"""Compiled code asks of the CPU what its capability promises, not all that the packaging machine has."""


@dataclass(frozen=True)
class Running:
    """A model that runs. `instead`: why on another combination than asked for; empty: on that one."""

    run: Run
    backend: str
    precision: str
    instead: str = ""


def impossible(backend: Backend, precision: AnyPrecision) -> str:
    """Why the combination exists nowhere; empty if it does."""
    if precision == "int8" and backend != "eager":
        return f"precision int8 runs on backend eager alone, not on {backend}; use eager, or fp16"
    return ""


def half_products(device: str) -> str:
    """The CPU's instructions for products in bf16; empty: it has none, and half precision would be slower than fp32."""
    if device != "cpu":
        return "cuda"
    can = torch.cpu.get_capabilities()
    return "AMX" if can.get("amx_bf16") else "AVX512_BF16" if can.get("avx512_bf16") else ""


def precisions(precision: AnyPrecision, device: str) -> list[Precision]:
    """What packaging builds and measures for it."""
    if precision != "auto":
        return [precision]
    half: list[Precision] = ["bf16"] if device == "cpu" else ["bf16", "fp16"]
    return ["fp32", *(half if half_products(device) else [])]


def fastest(artifact: Artifact, backend: Backend, device: str) -> Precision:
    """What `auto` stands for here; fp32 where no other passed and was faster on this kind of machine."""
    measured: dict[Precision, float] = {"fp32": 1.0} if backend == "eager" else {}
    for precision in precisions("auto", "cuda"):
        gate = parity_gate.find(artifact, backend, precision)
        if gate is not None and gate.passed and gate.built_for == machine(device, precision):
            measured[precision] = gate.speedup
    return max(measured, key=lambda precision: measured[precision], default="fp32")


def choose(artifact: Artifact, model: FusedDCNv2, backend: Backend, precision: AnyPrecision, device: str) -> Running:
    """The asked combination, or the next best that may serve: compiled for tensorrt, then eager in fp32."""
    if precision == "auto":
        precision = fastest(artifact, backend, device)
    chain: list[tuple[Backend, Precision]] = [(backend, precision), ("compiled", precision), ("eager", "fp32")]
    if backend != "tensorrt":
        del chain[1]
    reasons: list[str] = []
    for name, kind in dict.fromkeys(chain):
        if (name, kind) != (backend, precision) and not parity_gate.allowed(artifact, name, kind):
            continue
        try:
            run = start(artifact, model, name, kind, device)
        except BackendUnavailable as error:
            reasons.append(f"{parity_gate.combination(name, kind)} can't run here: {error}")
            continue
        stand_in = f"{parity_gate.combination(name, kind)} stands in; " if reasons else ""
        return Running(run, name, kind, stand_in + "; ".join(reasons))
    raise AssertionError("eager fp32 runs everywhere")


def start(artifact: Artifact, model: FusedDCNv2, backend: Backend, precision: Precision, device: str) -> Run:
    """The model on that backend, whatever the gate says.

    Raises:
        BackendUnavailable: it can't run here; why.
    """
    run = _whole(artifact, model, backend, precision, device)
    if device != "cpu":
        return run
    if precision in DTYPES:
        with torch.inference_mode():  # all that code is generated now, not in a request's time
            for rows in range(HALF_STEP, HALF_ROWS + 1, HALF_STEP):
                run(torch.zeros(rows, model.first.in_features))
        return lambda rows_RF: torch.cat([_filled_up(run, part_RF) for part_RF in torch.split(rows_RF, HALF_ROWS)])
    most = max(1, PART_BYTES // (4 * model.first.out_features))
    return lambda rows_RF: torch.cat([run(part_RF) for part_RF in torch.split(rows_RF, most)])


def _filled_up(run: Run, rows_RF: Tensor) -> Tensor:
    missing = -len(rows_RF) % HALF_STEP
    return run(nn.functional.pad(rows_RF, (0, 0, 0, missing)))[: len(rows_RF)] if missing else run(rows_RF)


def _whole(artifact: Artifact, model: FusedDCNv2, backend: Backend, precision: Precision, device: str) -> Run:
    if backend == "eager":
        return in_precision(model, precision, device)
    gate = parity_gate.find(artifact, backend, precision)
    if gate is not None and gate.unavailable:
        raise BackendUnavailable(gate.unavailable)
    if backend == "tensorrt":
        cast = in_precision(model, precision, device)
        return tensorrt.start(artifact, cast, model, precision, device)
    name = compiled_file(precision)
    built_for = gate.built_for if gate is not None else {}
    if name not in artifact.manifest.every_file() or built_for != machine(device, precision):
        raise BackendUnavailable(
            f"its code was compiled for {_described(built_for)}, this is "
            f"{_described(machine(device, precision))}; "
            "run `python -m graphs package` on such a machine"
        )
    return _load(artifact.path(name))


def in_precision(model: FusedDCNv2, precision: Precision, device: str) -> nn.Module:
    """The model computing in `precision`, features and scores in fp32.

    Raises:
        BackendUnavailable: int8 on a GPU, or of a model with a single dense layer.
    """
    model = copy.deepcopy(model).eval()
    if precision == "int8":
        if device != "cpu":
            raise BackendUnavailable("precision int8 has kernels for the CPU alone; use fp16 or bf16 on a GPU")
        if not len(model.hidden):
            raise BackendUnavailable(
                "int8 is for dense layers after the first, and this model has one; use bf16 or fp32"
            )
        model.hidden = _quantised(model.hidden)
        return model
    return (model if precision == "fp32" else HalfDCNv2(model, DTYPES[precision])).to(device)


def compiled_file(precision: str) -> str:
    """The artifact file of the compiled model."""
    return f"scorer-compiled-{precision}.pt2"


def machine(device: str, precision: str = "fp32") -> dict[str, str]:
    """What compiled code, and its speed, depends on."""
    capability = torch.backends.cpu.get_cpu_capability()
    if device != "cpu":
        capability = "sm_{}{}".format(*torch.cuda.get_device_capability())
    found = {
        "device": device,
        "machine": platform.machine(),
        "capability": capability,
        "torch": f"torch {torch.__version__}",
    }
    if device == "cpu" and precision in DTYPES:
        found["half"] = half_products(device) or "no products in half precision"
    return found


def _described(machine: dict[str, str]) -> str:
    return ", ".join(machine[part] for part in ("device", "machine", "capability", "half", "torch") if part in machine)


def compile_to(path: Path, model: FusedDCNv2, precision: Precision, device: str) -> None:
    """Writes the model as an AOTInductor package for this kind of machine.

    Source: https://docs.pytorch.org/docs/2.13/torch.compiler_aot_inductor.html.

    Raises:
        BackendUnavailable: there is no C++ compiler, or it failed.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise BackendUnavailable(f"no C++ compiler ({compiler}) where the artifact was packaged; install g++ there")
    import torch._inductor  # slow to import, and serving has no use for it

    options: dict[str, Any] = {}
    if device == "cpu":
        options["cpp.march"] = _MARCH.get(machine(device)["capability"])
        options["freezing"] = precision in DTYPES  # weights are packed for the CPU's products once, not in each call
    example_RF = torch.zeros(64, model.first.in_features, device=device)
    rows = torch.export.Dim("R", min=2, max=1 << 24)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about its own code
            program = torch.export.export(
                in_precision(model, precision, device), (example_RF,), dynamic_shapes=({0: rows},)
            )
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    except Exception as error:  # whatever the compilers throw
        raise BackendUnavailable(f"AOTInductor failed ({type(error).__name__}: {_first_line(error)})") from error


def _load(path: Path) -> Run:
    from torch._inductor.package.package import load_package

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = load_package(str(path), num_runners=RUNNERS)
    except Exception as error:  # a library that is missing, say
        raise BackendUnavailable(f"its code can't be loaded ({_first_line(error)})") from error

    def run(rows_RF: Tensor) -> Tensor:
        few = max(0, 2 - len(rows_RF))  # it was compiled for at least 2
        padded_RF = torch.nn.functional.pad(rows_RF, (0, 0, 0, few)) if few else rows_RF
        scores_R: Tensor = compiled(padded_RF)[: len(rows_RF)]
        return scores_R

    return run


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200]


class _Int8Linear(nn.Module):
    """A linear layer with int8 weights, a scale per output; the input is quantised by its range, call by call.

    To 7 bits: where the CPU has no VNNI the kernels add pairs of products in 16 bits, which 8 bits would overflow, and
    what the gate found on one machine is to hold on others.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()
        scale = weight.abs().amax(dim=1).clamp(min=1e-8) / 127
        zero = torch.zeros(len(weight), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated with no replacement in torch 2.13 that has these kernels
            quantised = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
        bias = None if layer.bias is None else layer.bias.detach()
        self._packed = torch.ops.quantized.linear_prepack(quantised, bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic(x.contiguous(), self._packed, reduce_range=True)
        return y


def _quantised(layers: nn.ModuleList) -> nn.ModuleList:
    return nn.ModuleList([_Int8Linear(layer) for layer in layers if isinstance(layer, nn.Linear)])
