"""Open loop on 127.0.0.1: requests at the times of a Poisson process whoever is served, from a process of its own.

It shares the cores with what it measures, so a request costs it little: connections are kept, and one is a protocol
without streams or tasks.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np

from benchmarks.load import Load

Answers = list[tuple[float, float, str]]
"""Per request: when it was due, seconds from the start; ms until it was answered; `ok`, `degraded` or `error`."""

GIVEN_UP_S = 10.0
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
        found: tuple[float, Answers] = pool.apply(_ask_all, (url, bodies, times))
    return found


def _ask_all(url: str, bodies: Sequence[bytes], times: np.ndarray) -> tuple[float, Answers]:
    import uvloop

    return uvloop.run(ask(url, bodies, times))


async def ask(url: str, bodies: Sequence[bytes], times: np.ndarray) -> tuple[float, Answers]:
    """As `ask_all`, in this event loop."""
    address = urlsplit(url)
    generator = _Generator(address.hostname or "", address.port or 80, len(times))
    requests = [
        b"POST /v1/recommend HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        for body in bodies
    ]
    started, generator.began = time.time() + 0.1, time.perf_counter() + 0.1
    for number, at in enumerate(times.tolist()):
        delay = generator.began + at - time.perf_counter()  # uvloop's own clock stands still within a turn
        if delay > 0:
            await asyncio.sleep(delay)
        generator.send(at, requests[number % len(requests)])
    await generator.all_answered.wait()
    return started, generator.answers


class _Generator:
    """Sends each request on a connection that is free, or on a new one."""

    def __init__(self, host: str, port: int, count: int) -> None:
        self._address = host, port
        self._count = count
        self._free: list[_Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self.began = 0.0
        self.answers: Answers = []
        self.all_answered = asyncio.Event()
        if not count:
            self.all_answered.set()

    def send(self, at: float, request: bytes) -> None:
        while self._free:
            connection = self._free.pop()
            if not connection.lost:
                connection.send(at, request)
                return
        task = asyncio.ensure_future(self._open(at, request))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, at: float, request: bytes) -> None:
        try:
            async with asyncio.timeout(GIVEN_UP_S):
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(lambda: _Connection(self), *self._address)
        except (OSError, TimeoutError):
            self.answered(at, "error")
        else:
            connection.send(at, request)

    def answered(self, at: float, outcome: str, connection: _Connection | None = None) -> None:
        self.answers.append((at, (time.perf_counter() - self.began - at) * 1e3, outcome))
        if connection:
            self._free.append(connection)
        if len(self.answers) == self._count:
            for free in self._free:
                free.close()
            self.all_answered.set()


class _Connection(asyncio.Protocol):
    """One request at a time, given up after GIVEN_UP_S."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._at: float | None = None
        self._got = b""
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by class

    def send(self, at: float, request: bytes) -> None:
        self._at, self._got = at, b""
        self._timer = asyncio.get_running_loop().call_later(GIVEN_UP_S, self._end, "error")
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._got = got = self._got + data
        head = got.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(got, 0, head + 2)
        if length is None:
            self._end("error")
        elif len(got) >= head + 4 + int(length.group(1)):
            if b" 200 " not in got[:20]:
                self._end("error", keep=True)
            else:
                self._end("ok" if b'"degraded":[]' in got else "degraded", keep=True)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._end("error")

    def _end(self, outcome: str, keep: bool = False) -> None:
        if self._at is None:
            return
        at, self._at = self._at, None
        self._timer.cancel()
        if not keep:
            self.close()
        self._generator.answered(at, outcome, self if keep else None)

    def close(self) -> None:
        self._transport.close()
