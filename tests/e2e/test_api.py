"""How callers reach the deployed application: HTTP and a handle give the answers of the stages in one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deployments.api.operations import Recommender
from deployments.artifact.reader import Artifact
from tests.support.parity import Call, assert_alike, in_one_process, mixed_calls, over_a_handle, over_http
from tests.support.ray_cluster import Cluster
from tests.support.serve_config import Config


def test_serve_shows_both_applications_running_and_every_stage_by_its_name(served: Cluster) -> None:
    assert served.states() == {
        "store": ("RUNNING", {"Store": "HEALTHY"}),
        "recommender": (
            "RUNNING",
            dict.fromkeys(("Ingress", "CandidateGenerator", "Scorer", "Ranker", "MetricsHub"), "HEALTHY"),
        ),
    }


async def test_http_a_handle_and_one_process_give_the_same_items(
    served: Cluster,
    config: Config,
    artifact: Artifact,
    in_process: Callable[..., Recommender],
    tmp_path: Path,
) -> None:
    calls = mixed_calls()
    http = over_http(served, calls)
    assert len({tuple(i["item_id"] for i in answer["items"]) for answer in http}) > 40, "too alike to tell a mix-up"
    assert [a["user_id"] for a in http] == [body["user_id"] for _, body in calls]
    handle = over_a_handle(served, calls, tmp_path / "answers.json")
    assert_alike(http, [got["answer"] for got in handle["answers"]], calls)
    assert_alike(http, await in_one_process(calls, config, artifact, in_process), calls)
    assert handle["gpus_free"] == 1.75, "the Scorer holds a quarter of one of two GPUs"


def test_requests_that_serve_has_routed_before_do_not_go_through_it(served: Cluster) -> None:
    def through_serve(path: str) -> bool:
        headers = {"X-Request-Timeout-Seconds": "0.000001"}  # Serve's; the fast path does not know it
        return served.client.post(path, json={"user_id": "u1"}, headers=headers).status_code == 408

    for _ in range(8):
        served.client.post("/v1/recommend", json={"user_id": "u1"})
    assert through_serve("/v1/recommend?slow=1")
    assert not any(through_serve("/v1/recommend") for _ in range(8))


def test_a_bad_request_by_handle_is_a_value_error_that_names_the_field(served: Cluster, tmp_path: Path) -> None:
    bad: list[tuple[Call, str]] = [
        (("recommend", {"user_id": "u1", "n": 101}), "n: "),
        (("recommend", {"user_id": "u1", "colour": "red"}), "colour: "),
        (("recommend", {}), "user_id: "),
        (("rank", {"user_id": "u1", "item_ids": []}), "item_ids: "),
        (("similar", {"item_id": "no such item"}), "item_id: "),
        (("record_events", {"events": [{"user_id": "u1", "item_id": "i1", "event_type": 3}]}), "events.0.event_type: "),
    ]
    good: Call = ("recommend", {"user_id": "u1", "n": 3, "deadline_ms": 10_000})
    *refused, answered = over_a_handle(served, [*(call for call, _ in bad), good], tmp_path / "answers.json")["answers"]
    for (call, field), got in zip(bad, refused, strict=True):
        assert field in got.get("value_error", ""), (call, got)
    assert len(answered["answer"]["items"]) == 3


def test_the_next_recommendation_knows_an_event_posted_just_before(served: Cluster) -> None:
    first = served.recommend("newcomer")["items"]
    assert {item["source"] for item in first} == {"popular"}
    event = {"user_id": "newcomer", "item_id": first[0]["item_id"], "event_type": "like"}
    assert served.client.post("/v1/events", json={"events": [event]}).status_code == 202
    then = served.recommend("newcomer")["items"]
    assert first[0]["item_id"] not in {item["item_id"] for item in then}
    assert {item["source"] for item in then} != {"popular"}
