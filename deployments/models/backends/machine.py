"""The kind of machine: the properties on which compiled code and its speed depend."""

from __future__ import annotations

import platform

import torch

from deployments.models.backends.precision import HALF_DTYPES

_PARTS = ("device", "machine", "capability", "half", "torch")


def half_precision_support(device: str) -> str:
    """The CPU's instructions for bf16 products, `cuda` on a GPU. Empty: none, so half precision is slower than fp32."""
    if device != "cpu":
        return "cuda"
    capabilities = torch.cpu.get_capabilities()
    return "AMX" if capabilities.get("amx_bf16") else "AVX512_BF16" if capabilities.get("avx512_bf16") else ""


def cpu_capability() -> str:
    """The widest vector instructions that torch uses on this CPU, such as `AVX512`."""
    return torch.backends.cpu.get_cpu_capability()


def signature(device: str, precision: str = "fp32") -> dict[str, str]:
    """The properties of this machine that must equal those in a gate's `built_for`."""
    capability = cpu_capability()
    if device != "cpu":
        capability = "sm_{}{}".format(*torch.cuda.get_device_capability())
    found = {
        "device": device,
        "machine": platform.machine(),
        "capability": capability,
        "torch": f"torch {torch.__version__}",
    }
    if device == "cpu" and precision in HALF_DTYPES:
        found["half"] = half_precision_support(device) or "no products in half precision"
    return found


def describe(signature: dict[str, str]) -> str:
    """A signature as text, for error messages."""
    return ", ".join(signature[part] for part in _PARTS if part in signature)
