"""Settings of a process that runs models: its threads and its garbage collector."""

from __future__ import annotations

import gc
import sys
from types import ModuleType


def loaded_torch() -> ModuleType | None:
    """torch, if this process has imported it. A stage without torch saves its seconds and megabytes."""
    return sys.modules.get("torch")


def set_threads(threads: int) -> None:
    """Limits torch and Faiss, where this process has imported them, to `threads` each."""
    if torch := loaded_torch():
        torch.set_num_threads(threads)
    if faiss := sys.modules.get("faiss"):
        faiss.omp_set_num_threads(threads)


def freeze_garbage_collector() -> None:
    """Exempts all present objects from garbage collection; call it after loading.

    A collection over half a million objects takes 0.3 s.
    """
    gc.collect()
    gc.freeze()
