"""Drift over the real funnel in one process: live rows are measured as the reference was, and shifted signals drift."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from deployments.api.access import AccessChain
from deployments.api.http import HttpConfig, make_app
from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from deployments.errors import DataError, Unavailable
from deployments.store.memory import MemoryStore
from deployments.telemetry.drift_server import DriftServer
from graphs.commands.drift_reference import from_live
from monitoring.drift.detector import DriftSample
from monitoring.drift.drift_config import DriftConfig
from monitoring.drift.reference import from_table, to_table

USERS = [f"u{u}" for u in range(80)]
Build = Callable[..., Recommender]


class Actor:
    """A drift server whose windows close when the test says so, and which can be `stuck` or dead (not `alive`)."""

    def __init__(self, artifact: Artifact, folder: Path) -> None:
        self.config = DriftConfig.model_validate(
            {
                "window_s": 1e6,
                "longest_window_s": 1e6,
                "sampling": {"every_s": 60, "rows_per_draw": 400},
                "verdicts": {"min_rows": 40},
                "deep": {"folder": str(folder), "keep": 1},
            }
        )
        self.server = DriftServer(str(artifact.folder), self.config.model_dump(mode="json"))
        self.alive = True
        self.stuck = False
        self.samples: list[DriftSample] = []

    async def __call__(self, method: str, *args: Any) -> Any:
        if self.stuck:
            await asyncio.sleep(60)
        if not self.alive:
            raise ConnectionError("the actor died")
        self.samples += [arg for arg in args if isinstance(arg, DriftSample)]
        return await getattr(self.server, method)(*args)

    def close_window(self) -> None:
        window = self.server.detector._window
        self.server.detector.tick(window.began + 1e6)


@pytest.fixture
def actor(artifact: Artifact, tmp_path: Path) -> Actor:
    return Actor(artifact, tmp_path)


@pytest.fixture
def recommender(in_process: Build, store: MemoryStore, actor: Actor) -> Recommender:
    return in_process(store, drift=(actor.config, actor))


async def ask(recommender: Recommender, users: list[str], **fields: Any) -> list[dict[str, Any]]:
    bodies = [{"user_id": user, "deadline_ms": 20_000} | fields for user in users]
    answers = []
    for some in (bodies[:200], bodies[200:]):  # no more than may wait
        answers += await asyncio.gather(*(recommender.recommend(body) for body in some))
    assert recommender._drift_client is not None
    await recommender._drift_client.send()
    return answers


async def windows(
    recommender: Recommender, actor: Actor, users: list[str], count: int, **fields: Any
) -> dict[str, str]:
    """The verdicts after some windows of the same traffic."""
    for _ in range(count):
        await ask(recommender, users, **fields)
        actor.close_window()
    return {name: signal["verdict"] for name, signal in (await recommender.drift())["signals"].items()}


async def test_a_live_request_is_measured_as_the_reference_was(
    recommender: Recommender, actor: Actor, artifact: Artifact
) -> None:
    await ask(recommender, USERS)
    (sample,) = actor.samples
    assert sample.rows is not None
    live, reference = sample.rows, from_table(artifact.table("reference.parquet")).take(np.arange(80))
    order = np.argsort(live.numbers["embedding.distance"])
    expected = np.argsort(reference.numbers["embedding.distance"])
    assert set(live.numbers) - set(reference.numbers) == {"input.hours_since_last_event"}
    for name, value_B in reference.numbers.items():
        np.testing.assert_allclose(live.numbers[name][order], value_B[expected], rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(
        live.labels["answer.source"].share_BL[order], reference.labels["answer.source"].share_BL[expected], atol=1e-6
    )


async def test_traffic_like_the_training_users_has_no_drift(recommender: Recommender, actor: Actor) -> None:
    seen = await windows(recommender, actor, [*USERS, "new-1", "new-2", "new-3", "new-4"], 4)
    assert set(seen.values()) == {"OK"}


async def test_only_signals_of_shifted_requests_drift_until_the_shift_ends(
    recommender: Recommender, actor: Actor
) -> None:
    normal = [*USERS, "new-1", "new-2", "new-3", "new-4"]
    shifted = await windows(recommender, actor, normal, 3, filters={"year": {"gte": 1981}}, exclude_ids=["no such"])
    drifting = {name for name, verdict in shifted.items() if verdict == "DRIFT"}
    assert {"request.filters", "request.unknown_items"} <= drifting
    assert not [name for name in drifting if name.startswith(("input.", "embedding.", "request.user"))]
    report = await recommender.drift()
    assert report["verdict"] == "DRIFT"
    cells = {cell["cell"]: cell["window"] for cell in report["signals"]["request.filters"]["cells"]}
    assert cells["other"] == 1
    assert set((await windows(recommender, actor, normal, 8)).values()) == {"OK"}


async def test_more_new_users_change_their_own_signal_and_no_score(recommender: Recommender, actor: Actor) -> None:
    seen = await windows(recommender, actor, [*USERS, *(f"new-{n}" for n in range(60))], 3)
    drifting = {name for name, verdict in seen.items() if verdict == "DRIFT"}
    assert "request.user" in drifting
    assert not [name for name in drifting if name.startswith(("input.", "embedding.", "retrieval.", "score."))]


async def test_a_failed_stage_shows_in_the_answers(in_process: Build, store: MemoryStore, actor: Actor) -> None:
    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    recommender = in_process(store, starts={"scoring": broken}, drift=(actor.config, actor))
    seen = await windows(recommender, actor, USERS, 3)
    assert seen["answer.degraded"] == "DRIFT"
    assert (await recommender.drift())["answers"]["fallback_share"] == 1


async def test_a_dead_or_stuck_actor_changes_no_answer_and_is_reported(recommender: Recommender, actor: Actor) -> None:
    actor.alive = False
    answers = await ask(recommender, USERS[:5])
    assert all(answer["degraded"] == [] for answer in answers)
    with pytest.raises(Unavailable, match="ConnectionError"):
        await recommender.drift()
    assert b'rayfunnel_drift_rows_total{outcome="lost"} 5.0' in await recommender.metrics()
    actor.alive, actor.stuck = True, True
    began = asyncio.get_running_loop().time()
    with pytest.raises(Unavailable, match="in time"):
        await recommender.drift()
    assert asyncio.get_running_loop().time() - began < 5
    assert len((await recommender.recommend({"user_id": "u1"}))["items"]) == 10
    actor.stuck = False
    await ask(recommender, USERS[:5])
    assert b'rayfunnel_drift_rows_total{outcome="sent"} 5.0' in await recommender.metrics()


async def test_verdicts_and_reports_are_served_over_http(recommender: Recommender, actor: Actor) -> None:
    """Also Evidently reports: made in their own process, without constant and empty columns; the last K are kept."""
    app = make_app(recommender, HttpConfig(), AccessChain())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        await ask(recommender, USERS)
        verdicts = (await client.get("/v1/drift")).json()
        assert verdicts["verdict"] == "INSUFFICIENT_DATA"
        assert verdicts["reports"] == []
        page = await client.get("/drift")
        assert page.status_code == 200
        assert "nonce-" in page.headers["content-security-policy"]
        (actor.server.evidently.folder).mkdir(parents=True)
        (actor.server.evidently.folder / "drift-20200101T000000.html").write_text("an old one")
        await actor.server.make_evidently_report()
        report = (await client.get("/v1/drift")).json()
        assert report["deep_error"] is None
        (only,) = report["reports"]
        html = await client.get(only["html"])
        assert html.status_code == 200
        assert len(html.text) > 100_000
        assert html.headers["content-security-policy"].startswith("sandbox allow-scripts;")
        found = json.loads((actor.server.evidently.folder / f"{only['name']}.json").read_text())
        assert found["left_out"]["request.n"] == "constant on both sides"
        assert {m["config"]["method"] for m in found["metrics"]} == {"wasserstein", "jensenshannon"}
        for name in ("drift-20200101T000000", "..%2F..%2Fetc%2Fpasswd", "drift-2", "%00"):
            refused = await client.get(f"/drift/{name}")
            assert refused.status_code == 404, name
            assert refused.headers["content-type"] == "application/problem+json"
        actor.alive = False
        for path in ("/v1/drift", "/drift", only["html"]):
            refused = await client.get(path)
            assert refused.status_code == 503
            assert refused.headers["content-type"] == "application/problem+json"


async def test_no_id_leaves_the_ingress(recommender: Recommender, actor: Actor, store: MemoryStore) -> None:
    await ask(recommender, ["canary-user", *USERS[:3]], context={"surface": "canary-context"})
    assert "canary" not in repr(actor.samples)
    assert "canary" not in json.dumps(await recommender.drift())


async def test_events_are_joined_with_their_answers(recommender: Recommender, actor: Actor) -> None:
    answers = await ask(recommender, USERS[:4])
    items = answers[0]["items"]
    events = [
        {"user_id": "u0", "item_id": items[2]["item_id"], "event_type": "like", "request_id": answers[0]["request_id"]},
        {"user_id": "u1", "item_id": answers[1]["items"][0]["item_id"], "event_type": "dislike",
         "request_id": answers[1]["request_id"]},
        {"user_id": "u2", "item_id": items[2]["item_id"], "event_type": "like", "request_id": "another"},
    ]  # fmt: skip
    await recommender.record_events({"events": events})
    assert recommender._drift_client is not None
    await recommender._drift_client.send()
    assert (await recommender.drift())["answers"]["ctr"] is None, "none is mature"
    found = actor.server.detector.report(time.time() + actor.config.exposure.mature_s)["answers"]
    assert found["answers"] == found["mature_answers"] == 4
    assert found["ctr"] == pytest.approx(1 / 4)
    assert found["ndcg"] == pytest.approx(1 / np.log2(4), abs=1e-5)
    assert 0 < found["coverage"] < 1
    assert 0 < found["gini"] < 1


async def test_live_traffic_as_the_new_reference_is_no_drift(
    recommender: Recommender, actor: Actor, artifact: Artifact, tmp_path: Path
) -> None:
    """All requests are for 20 items; the reference has 10."""
    users = [*USERS, *(f"new-{n}" for n in range(200))]
    await ask(recommender, users, n=20)
    live = tmp_path / "live.parquet"
    rows = actor.server.detector.recent()
    assert rows is not None
    pq.write_table(to_table(rows.take(np.arange(50))), live)
    with pytest.raises(DataError, match="has 50 requests"):
        from_live(str(artifact.folder), str(live), str(tmp_path / "new"))
    with pytest.raises(DataError, match=r"holds no measured rows"):
        from_live(str(artifact.folder), str(artifact.folder / "histories.parquet"), str(tmp_path / "new"))
    pq.write_table(to_table(rows), live)
    new = from_live(str(artifact.folder), str(live), str(tmp_path / "new"))
    assert new.model_version != artifact.model_version
    (sent,) = actor.samples
    for version, verdict in ((artifact, "DRIFT"), (new, "OK")):
        judged = DriftServer(str(version.folder), actor.config.model_dump(mode="json")).detector
        for window in range(3):
            judged.add(replace(sent, model_version=version.model_version), window * 1e6)
            judged.tick(judged._window.began + 1e6)
        assert judged.verdicts()["request.n"] == verdict
