"""The benchmark harness: comparison of answers, load generator, tuning, sections of RESULTS.md."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.autoscaling.search import Goal
from benchmarks.autoscaling.study import HELD_OUT, TUNING, Study
from benchmarks.serving.answers import check, differences
from benchmarks.serving.open_loop import arrivals, send_all, send_all_here, summary
from benchmarks.serving.workloads import bodies
from deployments.artifact.reader import Artifact
from graphs.evaluation.results_file import write_section


def test_other_items_another_order_or_other_scores_are_differences() -> None:
    ours = [[("a", 1.0), ("b", 0.5)]] * 4
    theirs = [
        [("a", 1.00001), ("b", 0.5)],
        [("b", 1.0), ("a", 0.5)],
        [("a", 1.0), ("b", 0.6)],
        [("a", 1.0)],
    ]
    assert differences(ours, theirs) == 3
    assert differences(ours, ours) == 0


def test_answers_as_shipped_may_differ_as_far_as_the_parity_gate_allows() -> None:
    plain = [[(f"i{place}", 1.0) for place in range(10)]] * 10
    near = [[("other", 1.0), *plain[0][1:]], *plain[1:]]
    check("rayfunnel as shipped", near, plain)
    with pytest.raises(SystemExit, match=r"98\.00% of the items are the reference's \(at least 99%\); not timed"):
        check("rayfunnel as shipped, all in ingress", [near[0]] * 2 + near[2:], plain)
    with pytest.raises(SystemExit, match="mosec: 1 of 200 answers differ"):
        check("mosec", near, plain)


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    times = arrivals(200, 50, seed=3)
    gaps = np.diff(times)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05), "exponential gaps"
    assert (arrivals(200, 50, seed=3) == times).all()


async def test_a_latency_counts_from_the_scheduled_time_and_errors_are_counted() -> None:
    """The server takes one request at a time, 50 ms each: of five at once, the last waits for the others."""
    turn = asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        async with turn:
            await asyncio.sleep(0.05)
        served.append(1)
        status = b"500 No" if len(served) == 5 else b"200 OK"
        body = b'{"degraded":["scoring:timeout"]}' if len(served) == 4 else b'{"degraded":[]}'
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        await reader.read()  # until the client closes
        writer.close()
        await writer.wait_closed()

    served: list[int] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, answers = await asyncio.to_thread(send_all_here, f"http://127.0.0.1:{port}", [b"{}"], np.zeros(5))
    times = np.array([0.0, 0.0, 0.001, 0.001])
    _, more = await asyncio.to_thread(send_all_here, f"http://127.0.0.1:{port}", [b"{}"], times)
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.05)
    found, late = summary(answers), summary(more, lead_s=5e-4)
    assert (found.full, found.errors, found.degraded) == (3, 1, 1)
    assert found.p99_ms > 230
    assert 130 < found.p50_ms < found.p99_ms
    assert late.full == 2


async def test_connections_are_kept_and_a_lost_one_is_an_error_of_its_own_request_alone() -> None:
    peers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer.get_extra_info("peername"))
        body = b'{"degraded":[]}'
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"{}"):
                answered.append(1)
                if len(answered) == 3:
                    break
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
                for piece in (head[:9], head[9:], body[:5], body[5:]):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001)
        writer.close()
        await writer.wait_closed()

    answered: list[int] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, answers = await asyncio.to_thread(send_all, f"http://127.0.0.1:{port}", [b"{}"], np.arange(6) * 0.05)
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0.05)
    assert [outcome for *_, outcome in answers] == ["ok", "ok", "error", "ok", "ok", "ok"]
    assert len(peers) == 2, "the second replaces the lost one"


class _FixedStudy(Study):
    """Configurations with given (missed, cost) on the first tuning seeds, and on all."""

    def __init__(self, first: list[tuple[float, float]], tuning: list[tuple[float, float]]) -> None:
        self._first, self._tuning = first, tuning

    def configurations(self, name: str) -> list[dict[str, float]]:
        return [{"which": float(i)} for i in range(len(self._first))]

    def evaluate(self, name: str, which: Sequence[int], seeds: Sequence[int]) -> dict[int, tuple[float, float]]:
        assert not set(seeds) & set(HELD_OUT), "tuning never uses them"
        return {i: (self._tuning if tuple(seeds) == TUNING else self._first)[i] for i in which}


def test_tuning_takes_the_cheapest_within_the_misses_or_the_fewest_misses_within_the_cost() -> None:
    means = [(0.02, 1.0), (0.008, 1.2), (0.0005, 1.5), (0.0, 3.0)]
    study = _FixedStudy(means, means)
    assert study.best("ours", Goal(most_missed=0.01)) == (1, True)
    assert study.best("ours", Goal(most_missed=0.001)) == (2, True)
    assert study.best("ours", Goal(most_cost=1.4)) == (1, True)
    assert study.best("ours", Goal(most_cost=9.0)) == (3, True)
    assert study.best("ours", Goal(most_cost=0.5)) == (0, False), "the nearest, and said to be none"


def test_a_configuration_that_was_lucky_on_the_first_seeds_loses_on_the_others() -> None:
    study = _FixedStudy([(0.0, 1.0), (0.0, 1.1)], [(0.05, 1.0), (0.0, 1.1)])
    assert study.best("ours", Goal(most_missed=0.001)) == (1, True)


def test_bodies_are_drawn_from_the_artifacts_users_and_some_unknown_ones(artifact: Artifact, tmp_path: Path) -> None:
    lines = bodies(artifact, tmp_path, zipf=0.0, count=400).read_text().splitlines()
    new = [line for line in lines if '"new-' in line]
    assert len(lines) == 400
    assert 5 <= len(new) <= 50
    assert len(set(lines)) > 80
    few = bodies(artifact, tmp_path, zipf=1.5, count=400).read_text().splitlines()
    assert max(map(few.count, set(few))) > 100, "one user asks most"


def test_a_section_replaces_the_one_of_its_title_and_leaves_the_others(tmp_path: Path) -> None:
    out = tmp_path / "RESULTS.md"
    for section in ("## A\n\none", "## B\n\n| x |\n|---|", "## A\n\ntwo\n"):
        write_section(str(out), section)
    text = out.read_text()
    assert text.startswith("# Results\n\nGenerated;")
    assert text.index("## A\n\ntwo") < text.index("## B\n\n| x |")
    assert "one" not in text
    write_section(str(out), "## B\n\nthree")
    assert out.read_text().count("## ") == 2
