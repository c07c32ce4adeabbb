"""More requests at once than an ingress replica takes: refused with a remedy, and without effect afterwards."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster
from tests.support.scrape import scrape, value

FLOOD = 1000
"""More than the limit on requests under way, but less than Serve gives an ingress replica: what Serve itself refuses is
not in our metrics. So the test holds with the fast path off, too."""
SHED = "rayfunnel_shed_total"
BODY = b'{"user_id": "u1", "n": %d, "deadline_ms": 10000}'


@pytest.fixture
def many_sockets() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4 * FLOOD, limits[1]), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def flood(address: tuple[str, int]) -> list[bytes]:
    """What comes back for FLOOD requests, all different, that are sent at once."""
    streams = [await asyncio.open_connection(*address) for _ in range(FLOOD)]
    for number, (_, writer) in enumerate(streams):
        body = BODY % (number % 100 + 1)
        head = b"POST /v1/recommend HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
    answers = await asyncio.gather(*(reader.read() for reader, _ in streams))
    for _, writer in streams:
        writer.close()
        await writer.wait_closed()
    return answers


@pytest.mark.usefixtures("many_sockets")
def test_a_flood_is_answered_or_refused_with_a_remedy_and_leaves_nothing_behind(served: Cluster) -> None:
    before, shed = served.replicas(), value(scrape(served), SHED, reason="queue")
    host, port = served.url.removeprefix("http://").split(":")
    answers = asyncio.run(flood((host, int(port))))
    statuses = Counter(answer[9:12] for answer in answers)
    assert set(statuses) == {b"200", b"503"}, statuses
    assert statuses[b"200"] >= 200
    refused = [answer.lower() for answer in answers if answer[9:12] == b"503"]
    assert all(b"\r\nretry-after: 1\r\n" in answer for answer in refused), refused[0]
    assert value(scrape(served), SHED, reason="queue") - shed == statuses[b"503"]
    wait_for("full answers again", lambda: served.recommend("u2")["degraded"] == [])
    assert served.replicas() == before
