"""Locks on an artifact: a reader marks the version that it has open, so that no writer removes it; a writer marks the
folder of the versions, so that there is one at a time.

A mark is a `flock`; a reader's is a shared one, on the version's manifest. The system drops it when the process ends,
however it ends. Where there are no such locks, versions are not marked, and writers keep them all.
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


def write(versions: Path) -> int | None:
    """Marks the folder `versions` as written to, until the descriptor that it returns is closed; None: no locks here.

    Raises:
        BlockingIOError: another writer is at work.
    """
    descriptor = os.open(versions, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EWOULDBLOCK:
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK), str(versions)) from None
        return None
    return descriptor
