"""Who gets the cores during the live flash crowd.

Ray runs its workers at nice 15 there, and what carries requests gets 0, a replica once it runs, so that replicas which
start have what these leave of the two cores, as if they started on other machines.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from benchmarks.serving import cpu


def favour_carriers() -> None:
    """Nice 0 for the ingress, the controller and HAProxy."""
    for process in Path("/proc").glob("[0-9]*"):
        if cpu.process_title(process.name) in ("Ingress", "Serve's controller", "HAProxy"):
            favour(process)


def favour(process: Path) -> None:
    """Nice 0 for all threads of a process, by its folder in /proc. Raises SystemExit without the right to."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        for thread in (process / "task").iterdir():
            try:
                os.setpriority(os.PRIO_PROCESS, int(thread.name), 0)
            except PermissionError:
                raise SystemExit("the flash crowd raises priorities; run it as root") from None
