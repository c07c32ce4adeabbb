"""Locks on the versions of an artifact: a reader marks the version that it has open, so that no writer removes it.

The mark is a shared `flock` on the version's manifest, which the system drops when the process ends, however it ends.
Where there are no such locks, versions are not marked, and writers keep them all.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path


def hold(manifest: Path) -> int | None:
    """Marks the version of `manifest` as in use until the descriptor that it returns is closed; None: no locks here.

    Raises:
        FileNotFoundError: the version is gone, or being removed.
    """
    descriptor = os.open(manifest, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EWOULDBLOCK:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(manifest)) from None
        return None
    if not os.fstat(descriptor).st_nlink:
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(manifest))
    return descriptor


def take(manifest: Path) -> int | None:
    """As `hold`, for the writer that removes the version; None: it is in use, or there are no locks here.

    Raises:
        FileNotFoundError: it has no manifest, so it is nobody's.
    """
    descriptor = os.open(manifest, os.O_RDWR | os.O_CLOEXEC)  # network file systems lock writable files only
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
