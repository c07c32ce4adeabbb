"""Whatever a client sends over HTTP, no replica ends, and each refusal names the field."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.support.malformed import KINDS, Malformed, requests
from tests.support.ray_cluster import Cluster


def wrong_with(answer: httpx.Response | str, sent: Malformed) -> str:
    """What is wrong with the answer; empty: nothing."""
    if isinstance(answer, str):
        return answer
    text = f"{answer.status_code} {answer.text[:300]}"
    if answer.status_code != sent.status:
        return f"not {sent.status}: {text}"
    if answer.headers["content-type"] != "application/problem+json" or answer.json()["status"] != sent.status:
        return f"no problem document: {text}"
    fields = [error["field"] for error in answer.json()["errors"]]
    if not any(field == sent.field or field.startswith(f"{sent.field}.") for field in fields):
        return f"{sent.field!r} is not named: {text}"
    return "too long" if len(answer.content) > 10_000 else ""


def test_malformed_requests_of_twenty_kinds_get_4xx_with_the_field_and_restart_no_replica(served: Cluster) -> None:
    before = served.replicas()
    sent = requests()
    assert len(KINDS) == 20
    assert len(sent) >= 200

    def send(one: Malformed) -> httpx.Response | str:
        try:
            return served.client.post(one.path, content=one.content, headers={"Content-Type": "application/json"})
        except httpx.HTTPError as error:
            return f"no answer: {error!r}"

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(send, sent))
    wrong = {
        f"{one.kind}: {one.path} {one.body[:80]!r}": problem
        for one, answer in zip(sent, answers, strict=True)
        if (problem := wrong_with(answer, one))
    }
    assert not wrong, "\n".join(f"{request}\n    {problem}" for request, problem in wrong.items())
    assert len(served.recommend("u1")["items"]) == 10
    assert served.replicas() == before
