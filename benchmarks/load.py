"""Load on 127.0.0.1: a closed loop by wrk, an open loop with Poisson arrivals; errors and degraded answers counted."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

# Bodies rotate; the rest of wrk's threads and of its work is in C. `done` reports what we need as one line of JSON.
_LUA = """
local bodies = {{}}
for line in io.lines("{bodies}") do bodies[#bodies + 1] = line end
local at = {offset}
degraded = 0
local threads = {{}}
function setup(thread) threads[#threads + 1] = thread end
function request()
  at = at % #bodies + 1
  return wrk.format("POST", nil, {{["Content-Type"] = "application/json"}}, bodies[at])
end
function response(status, headers, body)
  if status == 200 and not string.find(body, '"degraded":[]', 1, true) then degraded = degraded + 1 end
end
function done(summary, latency, requests)
  local sum = 0
  for _, thread in ipairs(threads) do sum = sum + thread:get("degraded") end
  local e = summary.errors
  print(string.format('{{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d, "degraded": %d}}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout, sum))
end
"""


@dataclass(frozen=True)
class Load:
    """What one run of a load measured."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    degraded: int

    @property
    def per_second(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds


def closed_loop(url: str, bodies: Path, clients: int, seconds: float, offset: int = 0) -> Load:
    """`clients` connections that each ask as soon as they are answered. `bodies`: a JSON body per line."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is missing; install it: apt-get install wrk")
    script = bodies.with_suffix(".lua")
    script.write_text(_LUA.format(bodies=bodies, offset=offset))
    command = [
        wrk,
        "-t1",
        f"-c{clients}",
        f"-d{seconds:.0f}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        f"{url}/v1/recommend",
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    return Load(**json.loads(output.strip().splitlines()[-1]))


def arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Times of a Poisson process of `rate` per second, from 0 to `seconds`."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, int(rate * seconds * 1.5) + 20)
    times = gaps.cumsum()
    return np.asarray(times[times < seconds])


def open_loop(url: str, bodies: Path, rate: float, seconds: float, seed: int = 1, lead_s: float = 0) -> Load:
    """Requests at the times of a Poisson process whoever is served; a latency counts from the scheduled time, so a
    stall is felt by all whom it delays. What is asked in the first `lead_s` of `seconds` does not count. Runs in a
    process of its own.
    """
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: dict[str, float] = pool.apply(_open_loop, (url, str(bodies), rate, seconds, seed, lead_s))
    return Load(**found)  # type: ignore[arg-type]


def _open_loop(url: str, bodies: str, rate: float, seconds: float, seed: int, lead_s: float) -> dict[str, float]:
    import uvloop

    lines = Path(bodies).read_bytes().splitlines()
    return uvloop.run(_scheduled(url, lines, arrivals(rate, seconds, seed), lead_s))


async def _scheduled(url: str, bodies: Sequence[bytes], times: np.ndarray, lead_s: float = 0) -> dict[str, float]:
    began, answers = await _answers(url, bodies, times)
    counted = [(ms, outcome) for at, ms, outcome in answers if at >= lead_s]
    latencies, outcomes = [ms for ms, _ in counted], [outcome for _, outcome in counted]
    p50, p99 = np.percentile(latencies, (50, 99))
    took = time.time() - began - lead_s
    return asdict(Load(len(counted), took, float(p50), float(p99), outcomes.count("error"), outcomes.count("degraded")))


Answers = list[tuple[float, float, str]]
"""Per request: when it was due, seconds from the start; ms until it was answered; `ok`, `degraded` or `error`."""


def ask_all(url: str, bodies: Sequence[bytes], times: np.ndarray) -> tuple[float, Answers]:
    """Requests at `times`, as in `open_loop`, from a process of its own; (Unix seconds of the start, the answers)."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: tuple[float, Answers] = pool.apply(_ask_all, (url, bodies, times))
    return found


def _ask_all(url: str, bodies: Sequence[bytes], times: np.ndarray) -> tuple[float, Answers]:
    import uvloop

    return uvloop.run(_answers(url, bodies, times))


async def _answers(url: str, bodies: Sequence[bytes], times: np.ndarray) -> tuple[float, Answers]:
    address = urlsplit(url)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    answers: Answers = []

    async def ask(at: float, body: bytes) -> None:
        outcome = "ok"
        try:
            async with asyncio.timeout(10):
                reader, writer = idle.pop() if idle else await asyncio.open_connection(address.hostname, address.port)
                head = f"POST /v1/recommend HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
                answer = await reader.readexactly(length)
                idle.append((reader, writer))
            if b" 200 " not in lines[0]:
                outcome = "error"
            elif b'"degraded":[]' not in answer:
                outcome = "degraded"
        except (OSError, TimeoutError, EOFError, StopIteration):
            outcome = "error"
        answers.append((float(at), (time.perf_counter() - began - at) * 1e3, outcome))

    began, started = time.perf_counter() + 0.1, time.time() + 0.1
    tasks = []
    for number, at in enumerate(times):
        delay = began + at - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        tasks.append(asyncio.ensure_future(ask(at, bodies[number % len(bodies)])))
    await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()
    return started, answers
