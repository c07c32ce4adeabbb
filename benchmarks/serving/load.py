"""Load in closed loop by wrk on 127.0.0.1; errors and degraded answers are counted."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Sends the bodies in turn; `done` prints the result as one line of JSON.
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
  print(string.format('{{"full": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d, "degraded": %d}}',
    summary.requests - e.status - sum, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout, sum))
end
"""


@dataclass(frozen=True)
class Load:
    """The result of one run. `full`: requests answered without error and not degraded."""

    full: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    degraded: int

    @property
    def sent(self) -> int:
        """All requests that were sent."""
        return self.full + self.errors + self.degraded

    @property
    def per_second(self) -> float:
        """Requests answered in full per second."""
        return self.full / self.seconds


def closed_loop(url: str, bodies: Path, clients: int, seconds: float, offset: int = 0) -> Load:
    """Each of `clients` connections sends the next request as soon as it has an answer. `bodies`: a JSON body per line;
    the first `offset` of them are sent last.
    """
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
