"""Resource usage of this process: CPU time, resident memory, GPUs."""

from __future__ import annotations

import logging
import resource
import sys
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector

log = logging.getLogger("rayfunnel.resources")


class Resources:
    """`gpu`: whether the process has a share of a GPU."""

    def __init__(self, gpu: bool) -> None:
        self._process = ProcessCollector(registry=CollectorRegistry())
        self._gpu = gpu
        self._utilization = gpu

    def cpu_s(self) -> float:
        """User and system time since the process started, seconds."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def memory_bytes(self) -> float:
        """Resident memory now; on a system without /proc the peak."""
        for family in self._process.collect():
            if family.name == "process_resident_memory_bytes":
                return float(family.samples[0].value)
        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)

    def gpu(self) -> tuple[float, float | None] | None:
        """GPU memory that torch reserves in this process (bytes), and the utilization of the busiest visible GPU by all
        processes (0 to 1, None: the driver does not report it). None without a GPU.
        """
        torch: Any = sys.modules.get("torch")  # imported by the model; a process without torch uses no GPU
        if not self._gpu or torch is None or not torch.cuda.is_initialized():
            return None
        devices = range(torch.cuda.device_count())
        reserved = float(sum(torch.cuda.memory_reserved(device) for device in devices))
        return reserved, self._used(torch, devices)

    def _used(self, torch: Any, devices: range) -> float | None:
        if self._utilization:
            try:
                return max(float(torch.cuda.utilization(device)) for device in devices) / 100
            except Exception as error:  # the driver's library, or its Python package, is missing
                log.warning("GPU utilisation is not known: %s: %s", type(error).__name__, error)
                self._utilization = False
        return None
