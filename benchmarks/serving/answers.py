"""The answers of two servers, compared before they are timed."""

from __future__ import annotations

import statistics
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import orjson

from deployments.models.backends.parity_gate import MIN_OVERLAP

Answers = Sequence[Sequence[tuple[str, float]]]
"""The (item, score) pairs of each request."""

CHECKED = 200
"""Requests whose answers are compared."""

TOLERANCE = 1e-4


def first_answers(url: str, bodies: Path) -> list[list[tuple[str, float]]]:
    """(item, score) lists of the first requests, sent one after the other."""
    found = []
    for body in bodies.read_bytes().splitlines()[:CHECKED]:
        request = urllib.request.Request(f"{url}/v1/recommend", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = orjson.loads(response.read())
        assert answer["degraded"] == [], answer
        found.append([(item["item_id"], item["score"]) for item in answer["items"]])
    return found


def differences(ours: Answers, theirs: Answers) -> int:
    """Requests whose answers have other items, another order, or scores that differ by more than TOLERANCE."""
    return sum(
        [i for i, _ in a] != [i for i, _ in b]
        or any(abs(x - y) > TOLERANCE for (_, x), (_, y) in zip(a, b, strict=True))
        for a, b in zip(ours, theirs, strict=True)
    )


def overlap(ours: Answers, theirs: Answers) -> float:
    """Mean share of the items of `theirs` that `ours` has, too."""
    return statistics.mean(
        len({i for i, _ in a} & {i for i, _ in b}) / max(1, len(b)) for a, b in zip(ours, theirs, strict=True)
    )


def check(server: str, found: Answers, reference: Answers) -> None:
    """Compares answers with the reference. A server as shipped may run the model in half precision, so its answers need
    the overlap of the parity gate only.

    Raises:
        SystemExit: the answers differ.
    """
    if "as shipped" in server:
        if (share := overlap(found, reference)) < MIN_OVERLAP:
            raise SystemExit(
                f"{server}: {share:.2%} of the items are the reference's (at least {MIN_OVERLAP:.0%}); not timed"
            )
    elif differing := differences(found, reference):
        raise SystemExit(f"{server}: {differing} of {CHECKED} answers differ; not timed")
