"""Process priorities during the live flash crowd.

Ray runs its workers at nice 15 there. Processes that serve requests get nice 0, a replica once it runs. So starting
replicas use only the CPU time that serving leaves free, as if they started on other machines.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from benchmarks.serving import cpu


def raise_serving() -> None:
    """Nice 0 for the ingress, the controller and HAProxy."""
    for process in Path("/proc").glob("[0-9]*"):
        if cpu.process_title(process.name) in ("Ingress", "Serve's controller", "HAProxy"):
            raise_priority(process)


def raise_priority(process: Path) -> None:
    """Nice 0 for all threads of a process, by its folder in /proc. Raises SystemExit without the right to."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended in the meantime
        for thread in (process / "task").iterdir():
            try:
                os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)
            except PermissionError:
                raise SystemExit("the flash crowd raises priorities; run it as root") from None
