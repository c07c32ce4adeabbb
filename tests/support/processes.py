"""Waiting, free ports and processes: what tests that start programs share."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx

TIMEOUT_S = 150.0
"""For what takes seconds on an idle machine: start, deploy, stop."""

T = TypeVar("T")


def wait_for(what: str, check: Callable[[], T | None], within_s: float = TIMEOUT_S, every_s: float = 0.1) -> T:
    """The first truthy value of `check`.

    Raises:
        AssertionError: `what` did not come within `within_s`; names the last value or error.
    """
    deadline, last = time.monotonic() + within_s, "nothing"
    while True:
        try:
            value = check()
            if value:
                return value
            last = repr(value)
        except (httpx.HTTPError, OSError) as error:
            last = repr(error)
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s; last seen: {last[:2000]}"
        time.sleep(every_s)


_taken: set[int] = set()


def free_port() -> int:
    """A port without a listener, below the kernel's range for clients; never the same twice."""
    while True:
        port = random.randrange(20_000, 29_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in _taken:
                _taken.add(port)
                return port


def free_range(size: int) -> int:
    """The first of `size` ports in a row of which `free_port` has given no other, nor will."""
    first = free_port()
    while any(first < port < first + size for port in _taken):
        first = free_port()
    _taken.update(range(first, first + size))
    return first


def with_environment(entry: str) -> Iterator[int]:
    """Ids of the processes whose environment holds `entry`."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.encode() in (folder / "environ").read_bytes():
                yield int(folder.name)
