"""Open loop on 127.0.0.1: requests at the times of a Poisson process whoever is served, from a process of its own.

It shares the cores with what it measures, so a request costs it little: connections are kept, and it reads and writes
them without an event loop's callbacks.
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

Answers = list[tuple[float, float, str]]
"""Per request: when it was due, seconds from the start; ms until it was answered; `ok`, `degraded` or `error`."""

GIVEN_UP_S = 10.0
_AT_ONCE = 32
"""Requests sent before answers are read again."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Times of a Poisson process of `rate` per second, from 0 to `seconds`."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, int(rate * seconds * 1.5) + 20)
    times = gaps.cumsum()
    return np.asarray(times[times < seconds])


def open_loop(url: str, bodies: Path, rate: float, seconds: float, seed: int = 1, lead_s: float = 0) -> Load:
    """Poisson arrivals; a latency counts from the scheduled time, so a stall is felt by all whom it delays. What is
    asked in the first `lead_s` of `seconds` does not count.
    """
    _, answers = ask_all(url, bodies.read_bytes().splitlines(), arrivals(rate, seconds, seed))
    return summary(answers, lead_s)


def summary(answers: Answers, lead_s: float = 0) -> Load:
    """Of the requests that were due after `lead_s`."""
    counted = [(at, ms, outcome) for at, ms, outcome in answers if at >= lead_s]
    outcomes = [outcome for _, _, outcome in counted]
    p50, p99 = np.percentile([ms for _, ms, _ in counted], (50, 99))
    seconds = max(at + ms / 1e3 for at, ms, _ in counted) - lead_s
    return Load(
        outcomes.count("ok"), seconds, float(p50), float(p99), outcomes.count("error"), outcomes.count("degraded")
    )


def ask_all(url: str, bodies: Sequence[bytes], times: np.ndarray) -> tuple[float, Answers]:
    """Requests for the bodies in turn, at `times`; (Unix seconds of the start, the answers in the order they came)."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: tuple[float, Answers] = pool.apply(ask, (url, bodies[: len(times)], times))
    return found


def ask(url: str, bodies: Sequence[bytes], times: np.ndarray) -> tuple[float, Answers]:
    """As `ask_all`, in this process."""
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
        generator.receive(max(0.0, due[0][1] - now) if due else GIVEN_UP_S / 10)
    generator.close()
    return started, generator.answers


class _Connection:
    """One request at a time."""

    __slots__ = ("at", "got", "socket", "unsent")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)
        self.at, self.got, self.unsent = 0.0, b"", b""


class _Generator:
    """Sends each request on a connection that is free, or on a new one. `began`: second 0, of time.perf_counter."""

    def __init__(self, address: tuple[str, int], began: float) -> None:
        self._address = address
        self._began = began
        self._epoll = select.epoll()
        self._open: dict[int, _Connection] = {}
        self._free: list[_Connection] = []
        self.busy: dict[_Connection, None] = {}
        """Connections with a request, the earliest first."""
        self.answers: Answers = []

    def send(self, at: float, request: bytes) -> None:
        """Sends `request`, which was due at second `at`, without waiting for anything."""
        if self._free:
            connection = self._free.pop()
        else:
            connection = _Connection(self._address)
            self._open[connection.socket.fileno()] = connection
            self._epoll.register(connection.socket, select.EPOLLIN)
        connection.at, connection.got, connection.unsent = at, b"", request
        self.busy[connection] = None
        self._write(connection)

    def receive(self, seconds: float) -> None:
        """Reads what has come; waits so long for something, up to a millisecond longer."""
        for file, event in self._epoll.poll(seconds):
            connection = self._open[file]
            if connection.unsent and event == select.EPOLLOUT:
                self._epoll.modify(connection.socket, select.EPOLLIN)
                self._write(connection)
            else:
                self._read(connection)
        given_up = time.perf_counter() - self._began - GIVEN_UP_S
        while self.busy and (first := next(iter(self.busy))).at < given_up:
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
        if connection.unsent:  # it is being opened
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
            self.answers.append((connection.at, late_ms, outcome))
        else:
            self._free.remove(connection)
        if keep:
            self._free.append(connection)
        else:
            del self._open[connection.socket.fileno()]
            connection.socket.close()


def _outcome(got: bytes) -> str:
    """What a response is; empty: there is more to come."""
    head = got.find(b"\r\n\r\n")
    length = _LENGTH.search(got, 0, head + 2) if head >= 0 else None
    if length is None or len(got) < head + 4 + int(length.group(1)):
        return ""
    if b" 200 " not in got[:20]:
        return "error"
    return "ok" if b'"degraded":[]' in got else "degraded"
