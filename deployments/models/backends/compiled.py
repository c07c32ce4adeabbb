"""The backend `compiled`: an AOTInductor package, made by packaging for one kind of machine and any number of rows.

Source: https://docs.pytorch.org/docs/2.13/torch.compiler_aot_inductor.html. Shapes: R rows, F features.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deployments.models.backends import machine
from deployments.models.backends.precision import HALF_DTYPES, Precision, in_precision
from deployments.models.backends.unavailable import BackendUnavailable
from deployments.models.fused_dcn_v2 import FusedDCNv2

MAX_CONCURRENT_CALLS = 4
"""Threads that may be inside one compiled model."""

_MIN_ROWS = 2
_MAX_ROWS = 1 << 24

_MARCH = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}
"""torch's CPU capability → the compiler's `-march`: no instruction of the packaging machine beyond its capability."""


def file_name(precision: str) -> str:
    """The artifact file of the compiled model."""
    return f"scorer-compiled-{precision}.pt2"


def compile_to(path: Path, model: FusedDCNv2, precision: Precision, device: str) -> None:
    """Writes the model as an AOTInductor package for this kind of machine.

    Raises:
        BackendUnavailable: there is no C++ compiler, or it failed.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise BackendUnavailable(f"no C++ compiler ({compiler}) where the artifact was packaged; install g++ there")
    import torch._inductor  # slow to import, and serving does not need it

    options: dict[str, Any] = {}
    if device == "cpu":
        options["cpp.march"] = _MARCH.get(machine.signature(device)["capability"])
        options["freezing"] = precision in HALF_DTYPES  # packs weights for the CPU's products once, not in each call
    example_RF = torch.zeros(64, model.first.in_features, device=device)
    rows = torch.export.Dim("R", min=_MIN_ROWS, max=_MAX_ROWS)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own code
            program = torch.export.export(
                in_precision(model, precision, device), (example_RF,), dynamic_shapes=({0: rows},)
            )
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)
    except Exception as error:  # the compilers raise errors of many types
        raise BackendUnavailable(f"AOTInductor failed ({type(error).__name__}: {_first_line(error)})") from error


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """The compiled model: features [R, F] → scores [R].

    Raises:
        BackendUnavailable: the package can't be loaded.
    """
    from torch._inductor.package.package import load_package

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = load_package(str(path), num_runners=MAX_CONCURRENT_CALLS)
    except Exception as error:  # for example, a missing library
        raise BackendUnavailable(f"its code can't be loaded ({_first_line(error)})") from error

    def run(rows_RF: Tensor) -> Tensor:
        missing = max(0, _MIN_ROWS - len(rows_RF))
        padded_RF = torch.nn.functional.pad(rows_RF, (0, 0, 0, missing)) if missing else rows_RF
        scores_R: Tensor = compiled(padded_RF)[: len(rows_RF)]
        return scores_R

    return run


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200]
