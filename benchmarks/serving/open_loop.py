"""Load in open loop on 127.0.0.1: requests at the times of a Poisson process, from a process of its own.

The generator shares the cores with the server, so a request must cost it little: it keeps connections open, and reads
and writes them without the callbacks of an event loop.
"""

from __future__ import annotations

import multiprocessing
import re
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from benchmarks.serving.load import Load

Outcomes = list[tuple[float, float, str]]
"""Per request: the scheduled time in seconds from the start; ms until the answer; `ok`, `degraded` or `error`."""

TIMEOUT_S = 10.0
_AT_ONCE = 32
"""Requests sent before answers are read again."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Times of a Poisson process of `rate` per second, from 0 to `seconds`."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, int(rate * seconds * 1.5) + 20)
    times = gaps.cumsum()
    return np.asarray(times[times < seconds])


def open_loop(
    url: str, bodies: Path, rate: float, seconds: float, seed: int = 1, lead_s: float = 0, offset: int = 0
) -> Load:
    """Poisson arrivals for `seconds`. A latency counts from the scheduled time, so a stall shows in all the requests
    that it delays. Requests of the first `lead_s` seconds do not count. The first `offset` bodies are sent last.
    """
    lines = bodies.read_bytes().splitlines()
    _, outcomes = send_all(url, lines[offset:] + lines[:offset], arrivals(rate, seconds, seed))
    return summary(outcomes, lead_s)


def summary(outcomes: Outcomes, lead_s: float = 0) -> Load:
    """The result over the requests that were scheduled after `lead_s`."""
    counted = [(at, ms, outcome) for at, ms, outcome in outcomes if at >= lead_s]
    kinds = [outcome for _, _, outcome in counted]
    p50, p99 = np.percentile([ms for _, ms, _ in counted], (50, 99))
    seconds = max(at + ms / 1e3 for at, ms, _ in counted) - lead_s
    return Load(kinds.count("ok"), seconds, float(p50), float(p99), kinds.count("error"), kinds.count("degraded"))


def send_all(url: str, bodies: Sequence[bytes], times: np.ndarray) -> tuple[float, Outcomes]:
    """Sends the bodies in turn at `times`, from another process. Returns the start (Unix seconds) and the outcomes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: tuple[float, Outcomes] = pool.apply(send_all_here, (url, bodies[: len(times)], times))
    return found


def send_all_here(url: str, bodies: Sequence[bytes], times: np.ndarray) -> tuple[float, Outcomes]:
    """As `send_all`, in this process."""
    address = urlsplit(url)
    requests = [
        b"POST /v1/recommend HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        for body in bodies
    ]
    started, began = time.time() + 0.1, time.perf_counter() + 0.1
    generator = _Generator((address.hostname or "", address.port or 80), began)
    due = deque(enumerate(times.tolist()))
    while due or generator.busy:
        now = time.perf_counter() - began
        for _ in range(min(_AT_ONCE, len(due))):
            number, at = due[0]
            if at > now:
                break
            due.popleft()
            generator.send(at, requests[number % len(requests)])
        generator.receive(max(0.0, due[0][1] - now) if due else TIMEOUT_S / 10)
    generator.close()
    return started, generator.outcomes


MAX_CONNECTIONS = 15_000
"""Connections at a time; a request without one counts as an error, as a client without file descriptors fails."""


class _Connection:
    """A connection with at most one request in flight."""

    __slots__ = ("at", "got", "socket", "unsent")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)
        self.at, self.got, self.unsent = 0.0, b"", b""


class _Generator:
    """Sends each request on a free connection, or on a new one. `began`: second 0 on time.perf_counter."""

    def __init__(self, address: tuple[str, int], began: float) -> None:
        self._address = address
        self._began = began
        self._epoll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._free: list[_Connection] = []
        self.busy: dict[_Connection, None] = {}
        """Connections with a request in flight, the earliest first."""
        self.outcomes: Outcomes = []

    def send(self, at: float, request: bytes) -> None:
        """Sends `request`, scheduled for second `at`, without blocking."""
        if self._free:
            connection = self._free.pop()
        elif len(self._open) >= MAX_CONNECTIONS:
            self.outcomes.append((at, 0.0, "error"))
            return
        else:
            connection = _Connection(self._address)
            self._open[connection.socket.fileno()] = connection
            self._epoll.register(connection.socket, select.EPOLLIN)
        connection.at, connection.got, connection.unsent = at, b"", request
        self.busy[connection] = None
        self._write(connection)

    def receive(self, seconds: float) -> None:
        """Reads the answers that have arrived; waits up to `seconds`, and at most a millisecond longer."""
        for file, event in self._epoll.poll(seconds):
            connection = self._open[file]
            if connection.unsent and event == select.EPOLLOUT:
                self._epoll.modify(connection.socket, select.EPOLLIN)
                self._write(connection)
            else:
                self._read(connection)
        expired = time.perf_counter() - self._began - TIMEOUT_S
        while self.busy and (first := next(iter(self.busy))).at < expired:
            self._end(first, "error", keep=False)

    def close(self) -> None:
        """Closes every connection."""
        for connection in self._open.values():
            connection.socket.close()
        self._epoll.close()

    def _write(self, connection: _Connection) -> None:
        try:
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self._end(connection, "error", keep=False)
            return
        if connection.unsent:  # the connection is being opened
            self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.got += data
        if not data:
            self._end(connection, "error", keep=False)
        elif outcome := _outcome(connection.got):
            self._end(connection, outcome, keep=True)

    def _end(self, connection: _Connection, outcome: str, keep: bool) -> None:
        if connection in self.busy:
            del self.busy[connection]
            late_ms = (time.perf_counter() - self._began - connection.at) * 1e3
            self.outcomes.append((connection.at, late_ms, outcome))
        else:
            self._free.remove(connection)
        if keep:
            self._free.append(connection)
        else:
            del self._open[connection.socket.fileno()]
            connection.socket.close()


def _outcome(got: bytes) -> str:
    """The outcome of a response; empty: it is not complete."""
    head = got.find(b"\r\n\r\n")
    length = _LENGTH.search(got, 0, head + 2) if head >= 0 else None
    if length is None or len(got) < head + 4 + int(length.group(1)):
        return ""
    if b" 200 " not in got[:20]:
        return "error"
    return "ok" if b'"degraded":[]' in got else "degraded"
