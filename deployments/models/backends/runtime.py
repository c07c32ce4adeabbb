"""The process in which models run: its threads, and its garbage collector."""

from __future__ import annotations

import gc
import sys
from types import ModuleType


def torch_here() -> ModuleType | None:
    """torch, if this process has loaded it: a stage that computes without it is spared its seconds and megabytes."""
    return sys.modules.get("torch")


def set_threads(threads: int) -> None:
    """Limits torch and Faiss, where this process uses them, to the replica's share of the CPU."""
    if torch := torch_here():
        torch.set_num_threads(threads)
    if faiss := sys.modules.get("faiss"):
        faiss.omp_set_num_threads(threads)


def loaded() -> None:
    """Called once all that stays is loaded: garbage collections no longer walk it, which takes 0.3 s for half a million
    objects."""
    gc.collect()
    gc.freeze()
