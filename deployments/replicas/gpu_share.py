"""The share of a GPU that a replica may use.

Ray does not enforce its fraction of a GPU. The memory is bounded here. Replicas on one GPU compute in turns, unless the
operator runs NVIDIA's Multi-Process Service (MPS) or partitions the GPU (MIG).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.errors import ConfigError

log = logging.getLogger("ray.serve")  # operators look there for lines about a replica

CONTEXT_BYTES = 512 << 20
"""GPU memory that CUDA and its libraries take in every process, outside torch's allocator; the GPU plan assumes it."""

MPS_FOLDER = "/tmp/nvidia-mps"  # noqa: S108 - NVIDIA's default of CUDA_MPS_PIPE_DIRECTORY
MPS_THREADS = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


@dataclass(frozen=True)
class Sharing:
    """How replicas share a GPU. `mps_threads`: percentage of the GPU's threads that MPS allows, if it is limited."""

    mps: bool = False
    mps_threads: str = ""
    mig: bool = False

    def __str__(self) -> str:
        if self.mig:
            return "MIG"
        if self.mps:
            return f"MPS with {self.mps_threads} % of the threads" if self.mps_threads else "MPS, threads not limited"
        return "neither MPS nor MIG"


def sharing(environment: Mapping[str, str], device_name: str = "") -> Sharing:
    """From the environment of the process and the name of the device. MPS runs if its control daemon has a folder."""
    folder = Path(environment.get("CUDA_MPS_PIPE_DIRECTORY", MPS_FOLDER))
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return Sharing(
        mps=(folder / "control").exists(),
        mps_threads=environment.get(MPS_THREADS, ""),
        mig=visible.startswith("MIG-") or " MIG " in f"{device_name} ",
    )


def memory_cap(share: float, total: int) -> float:
    """The fraction of a GPU of `total` bytes that torch may allocate in a replica with `share` of it."""
    return max(0.0, share - CONTEXT_BYTES / total)


def take_share(share: float) -> str:
    """Bounds the memory of this process to `share` of its GPU, before the first allocation. Logs and returns a line.

    Without a share the node's GPUs are hidden, since Ray 2.60 leaves them visible. Whole GPUs are not bounded.

    Raises:
        ConfigError: the share is too small for CUDA to start in.
    """
    if not share:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return ""
    import torch  # see `loaded_torch`

    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not torch.cuda.is_available():
        line = f"GPU {devices}: {share:g} given by Ray, but torch sees no CUDA device; the stage runs on the CPU"
        log.warning(line)
        return line
    found = sharing(os.environ, torch.cuda.get_device_name(0))
    line = f"GPU {devices} ({torch.cuda.get_device_name(0)}): {share:g} of it, {found}"
    if share < 1:
        total = torch.cuda.get_device_properties(0).total_memory
        cap = memory_cap(share, total)
        if cap <= 0:
            raise ConfigError(f"num_gpus {share:g} is less than the memory that CUDA itself takes (512 MiB); raise it")
        torch.cuda.set_per_process_memory_fraction(cap, 0)
        line += f", torch's memory capped at {cap * total / (1 << 30):.2f} GiB"
        if not (found.mps or found.mig):
            log.warning(
                "a fraction of a GPU without MPS or MIG: replicas on it compute in turns, and none is held to its "
                "share of the compute; start nvidia-cuda-mps-control on the node, or use MIG"
            )
    log.info(line)
    return line
