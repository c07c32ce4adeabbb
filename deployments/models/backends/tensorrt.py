"""The TensorRT backend (extra `gpu`). Not run on a GPU so far: tests cover its refusals, keys and fallbacks.

An engine is built for one GPU architecture and one set of versions, so it is not in the artifact. Each node builds it
once and caches it in `$XDG_CACHE_HOME/rayfunnel/engines`, under a key of all its dependencies. Before it serves, its
scores are compared with the plain model's.

Shapes: R rows, F features.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from deployments.artifact.reader import Artifact
from deployments.models.backends.unavailable import BackendUnavailable

PROFILE_ROWS = (2, 16_384, 131_072)
"""Rows of the engine's profile: least, optimum, most. More rows are computed in chunks."""

TOLERANCE = 0.02
"""Most mean difference from the plain model's scores, in standard deviations of these."""

PACKAGES = ("torch", "torch-tensorrt", "tensorrt")


def load_engine(
    artifact: Artifact, cast: nn.Module, plain: nn.Module, precision: str, device: str
) -> Callable[[Tensor], Tensor]:
    """The engine of `cast` (the model in `precision`), from the cache or built now.

    Raises:
        BackendUnavailable: no GPU, no TensorRT, a build that failed, or scores that differ from those of `plain`.
    """
    if device == "cpu":
        raise BackendUnavailable("TensorRT needs a GPU and this replica has none; give it num_gpus")
    try:
        import torch_tensorrt
    except Exception as error:  # an OSError if TensorRT's libraries are missing
        raise BackendUnavailable(f"torch-tensorrt can't be imported ({error}); install the extra gpu") from error
    versions = installed_versions()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rayfunnel" / "engines"
    path = folder / f"{engine_key(artifact.model_version, precision, architecture(), versions)}.pt2"
    n_features = next(parameter for parameter in plain.parameters()).shape[1]
    try:
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _build(torch_tensorrt, cast, n_features, path)
        import torch._inductor

        engine = torch._inductor.aoti_load_package(str(path))
    except Exception as error:  # the builder raises errors of many types
        raise BackendUnavailable(f"the TensorRT engine failed ({type(error).__name__}: {error})") from error

    def run(rows_RF: Tensor) -> Tensor:
        parts = []
        for part_RF in torch.split(rows_RF, PROFILE_ROWS[2]):
            missing = max(0, PROFILE_ROWS[0] - len(part_RF))
            parts.append(engine(torch.nn.functional.pad(part_RF, (0, 0, 0, missing)))[: len(part_RF)])
        return torch.cat(parts)

    check_scores(run, plain.to(device), n_features, device)
    return run


def installed_versions() -> dict[str, str]:
    """The versions of PACKAGES; `none` where one is missing."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def architecture() -> str:
    """The GPU's architecture and the CPU's, as `sm_90-x86_64`."""
    return "sm_{}{}-{}".format(*torch.cuda.get_device_capability(), platform.machine())


def engine_key(model_version: str, precision: str, architecture: str, versions: dict[str, str]) -> str:
    """Name of the engine in the cache: readable, and with a digest of all its dependencies."""
    parts = [
        model_version,
        precision,
        architecture,
        *(f"{name}={versions[name]}" for name in sorted(versions)),
        str(PROFILE_ROWS),
    ]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return f"{model_version}-{precision}-{architecture}-{digest}"


def check_scores(run: Callable[[Tensor], Tensor], plain: nn.Module, n_features: int, device: str) -> None:
    """Compares the engine's scores with the plain model's on random features.

    Raises:
        BackendUnavailable: they differ by more than TOLERANCE.
    """
    generator = torch.Generator().manual_seed(0)
    rows_RF = torch.randn(4096, n_features, generator=generator).clamp(-5, 5).to(device)
    with torch.inference_mode():
        expected_R, found_R = plain(rows_RF), run(rows_RF)
    difference = float((found_R - expected_R).abs().mean() / expected_R.std())
    if not difference <= TOLERANCE:  # a NaN is refused as well
        raise BackendUnavailable(
            f"its scores differ from the plain model's by {difference:.3g} standard deviations (at most {TOLERANCE})"
        )


def _build(torch_tensorrt: object, model: nn.Module, n_features: int, path: Path) -> None:
    """Writes the engine to `path`.

    Source: https://docs.pytorch.org/TensorRT/user_guide/dynamic_shapes.html, and saving_models.html.
    """
    least, usual, most = ((rows, n_features) for rows in PROFILE_ROWS)
    inputs = [torch_tensorrt.Input(min_shape=least, opt_shape=usual, max_shape=most, dtype=torch.float32)]  # type: ignore[attr-defined]
    example_RF = torch.zeros(usual, device="cuda")
    rows = torch.export.Dim("R", min=PROFILE_ROWS[0], max=PROFILE_ROWS[2])
    program = torch.export.export(model, (example_RF,), dynamic_shapes=({0: rows},))
    engine = torch_tensorrt.dynamo.compile(program, arg_inputs=inputs)  # type: ignore[attr-defined]
    partial = path.with_suffix(f".{os.getpid()}.pt2")
    torch_tensorrt.save(  # type: ignore[attr-defined]
        engine,
        str(partial),
        output_format="aot_inductor",
        arg_inputs=[example_RF],
        retrace=True,
        dynamic_shapes=({0: rows},),
    )
    partial.replace(path)  # atomic, as several replicas may build at once
