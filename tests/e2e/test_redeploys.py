"""Redeploys, deletions and restarts: clients get their answers, and events outlive all of them."""

from __future__ import annotations

import copy
import time

import httpx

from tests.support.load import Load
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config, application, changed
from tests.support.stored import stored_histories


def test_events_outlive_the_recommender_and_a_shutdown_of_serve(served: Cluster, config: Config) -> None:
    def history() -> list[tuple[str, str]]:
        answer = served.client.get("/demo/history", params={"user_id": "keeper"})
        return [(event["item_id"], event["event_type"]) for event in answer.json()["events"]]

    events = [
        {"user_id": "keeper", "item_id": f"i{4 * i}", "event_type": "like", "timestamp": 1.7e9 + i} for i in range(12)
    ]
    assert served.client.post("/v1/events", json={"events": events}).status_code == 202
    expected = [(f"i{4 * i}", "like") for i in reversed(range(12))]
    items = [item["item_id"] for item in served.recommend("keeper", n=30)["items"]]
    assert history() == expected
    assert not set(items) & {item for item, _ in expected}

    without = copy.deepcopy(config)
    without["applications"].remove(application(without, "recommender"))
    served.deploy(without)
    assert served.client.get("/v1/health/live").status_code == 404
    kept = stored_histories(served.store_port, ["keeper"]).events(0)
    assert [(event.item_id, event.event_type) for event in reversed(kept)] == expected

    served.shut_down()
    assert not (served.store_folder / "valkey.pid").exists(), "the embedded server ended with its application"
    served.deploy(config)
    assert history() == expected
    assert [item["item_id"] for item in served.recommend("keeper", n=30)["items"]] == items
    assert served.client.post("/v1/events", json={"events": events}).json()["duplicates"] == 12


def test_a_redeploy_with_a_changed_argument_costs_no_answer_and_has_its_effect(served: Cluster, config: Config) -> None:
    before = {replica.replica_id for replica in served.replicas()}
    store = served.replicas("store")
    plain = [item["item_id"] for item in served.recommend("u1", n=20)["items"]]
    idle = httpx.Client(base_url=served.url, timeout=30, limits=httpx.Limits(keepalive_expiry=None))
    with idle, Load(served.url) as load:
        assert idle.post("/v1/recommend", json={"user_id": "u1"}).status_code == 200
        wait_for("some answers", lambda: len(load.answers) >= 20)
        served.deploy(changed(config, stages__ranking__config__diversity=0.9))
        deployed = time.time()
        wait_for(
            "whole answers of the new ones",
            lambda: [body for at, _, body in load.answers if at > deployed and body.get("degraded") == []][10:],
        )
        assert idle.post("/v1/recommend", json={"user_id": "u1"}).status_code == 200, "on its connection of before"
    load.assert_all_answered(at_least=60)
    diverse = served.recommend("u1", n=20, explain=True)["items"]
    assert [item["item_id"] for item in diverse] != plain
    assert any(item["reason"]["diversity_penalty"] for item in diverse)
    assert not before & {replica.replica_id for replica in served.replicas()}
    assert served.replicas("store") == store, "the store was left alone"
