"""Processes are killed under load, and clients notice no error."""

from __future__ import annotations

import os
import signal
import threading
import time

import httpx

from tests.support.load import Load
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster
from tests.support.stored import stored_histories


def test_no_acknowledged_event_is_lost_or_doubled_when_the_embedded_server_is_killed(served: Cluster) -> None:
    """Clients send events with ids one after the other, each again and again until it is acknowledged."""
    clients, each = 3, 60
    acknowledged: dict[str, list[float]] = {f"poster {c}": [] for c in range(clients)}
    outcomes: list[int | str] = []

    def post(user: str) -> None:
        with httpx.Client(base_url=served.url, timeout=10) as client:
            for n in range(each):
                # Each comes with the one before once more, which must not count twice.
                events = [
                    {"user_id": user, "item_id": f"i{m}", "event_type": "view", "event_id": f"{user}/{m}"}
                    for m in {max(0, n - 1), n}
                ]
                give_up = time.monotonic() + 30
                while time.monotonic() < give_up:
                    try:
                        status: int | str = client.post("/v1/events", json={"events": events}).status_code
                    except httpx.HTTPError as error:
                        status = repr(error)
                    outcomes.append(status)
                    if status == 202:
                        acknowledged[user].append(time.time())
                        break
                    time.sleep(0.02)

    pid = int((served.store_folder / "valkey.pid").read_text())
    threads = [threading.Thread(target=post, args=(user,)) for user in acknowledged]
    for thread in threads:
        thread.start()
    wait_for(
        "some acknowledged", lambda: all(len(times) >= each // 3 for times in acknowledged.values()), every_s=0.005
    )
    os.kill(pid, signal.SIGKILL)
    killed = time.time()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {202, 503}, outcomes
    assert all(len(times) == each for times in acknowledged.values())
    assert max(max(times) for times in acknowledged.values()) > killed, "it was killed when all was done"
    assert int((served.store_folder / "valkey.pid").read_text()) != pid
    histories = stored_histories(served.store_port, list(acknowledged))
    for row, user in enumerate(acknowledged):
        ids = [event.event_id for event in histories.events(row)]
        assert sorted(ids) == sorted(f"{user}/{n}" for n in range(each))


def test_a_killed_scorer_costs_no_answer_and_comes_back(served: Cluster) -> None:
    old = next(replica for replica in served.replicas() if replica.deployment == "Scorer")
    with Load(served.url) as load:
        wait_for("some answers", lambda: len(load.answers) >= 20)
        os.kill(old.pid, signal.SIGKILL)
        killed = time.time()

        def back() -> bool:
            new = [replica for replica in served.replicas() if replica.deployment == "Scorer"]
            state = served.applications()["recommender"]["deployments"]["Scorer"]["status"]
            return bool(new) and new[0].replica_id != old.replica_id and state == "HEALTHY"

        wait_for("another Scorer", back, every_s=0.5)
        healed = time.time()
        wait_for(
            "whole answers again",
            lambda: [body for at, _, body in load.answers if at > healed and body.get("degraded") == []][10:],
        )
    load.assert_all_answered(at_least=50)
    late = [(at - killed, body["degraded"]) for at, _, body in load.answers[-10:] if body["degraded"]]
    assert not late
    # Requests that wait behind the lost calls are given less work, or meet their own deadline in the next stage.
    expected = [r for r in load.degraded if r.startswith("scoring:") or r.endswith((":deadline", ":late"))]
    assert set(load.degraded) == set(expected), load.degraded
