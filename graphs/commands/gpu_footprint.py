"""GPU memory of a replica of the scoring stage, measured from the artifact without a GPU.

Weights are the bytes of the model as it is served. Activations are the peak of the tensors alive at a time while the
model runs on torch's meta device, which computes sizes and allocates nothing. Backends that fuse operations need less.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deployments.artifact.reader import Artifact
from deployments.models.backends.precision import AnyPrecision, in_precision
from deployments.models.fused_dcn_v2 import FusedDCNv2
from deployments.stages.scoring import load_ranker

ROWS = 4096
"""Candidates of the measured call; the peak is proportional to them."""

BLOCKS = 1.25
"""Factor: torch's allocator returns larger blocks than requested."""


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors made within the context: `alive` now, and their `peak`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        self.peak = max(self.peak, self.alive)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.alive += storage.nbytes()
            weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def peak_bytes(model: nn.Module, n_features: int) -> float:
    """Peak bytes of the activations per row of `model`, a module on the meta device; the input [R, F] included."""
    with torch.inference_mode(), PeakMemory() as memory:
        model(torch.empty(ROWS, n_features, device="meta"))
    return float(memory.peak) / ROWS


def scorer(artifact: Artifact, precision: AnyPrecision, candidates: int, concurrency: int) -> tuple[int, int]:
    """(bytes of weights, bytes of activations per request of `candidates`) for `concurrency` batches at a time."""
    model = FusedDCNv2(load_ranker(artifact))
    # int8 is for the CPU alone; auto takes fp32 at worst.
    served = in_precision(model, precision if precision == "bf16" or precision == "fp16" else "fp32", "meta")
    weights = sum(part.numel() * part.element_size() for part in served.parameters())
    per_candidate = BLOCKS * peak_bytes(served, model.first.in_features)
    return weights, ceil(per_candidate * candidates * concurrency)
