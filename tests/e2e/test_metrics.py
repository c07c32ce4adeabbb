"""The totals of the application at `GET /metrics`, while replicas come and go and the hub is killed."""

from __future__ import annotations

import copy
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from monitoring.metrics.declarations import DECLARED
from monitoring.metrics.snapshots import OF_SAMPLE
from tests.support.processes import wait_for
from tests.support.ray_cluster import Cluster
from tests.support.scrape import Scraped, fallen, scrape, value
from tests.support.serve_config import Config, application


def ingresses(cluster: Cluster) -> list[int]:
    return [replica.pid for replica in cluster.replicas() if replica.deployment == "Ingress"]


def scaled(config: Config, replicas: int) -> Config:
    """As an operator scales one deployment in the file: nothing restarts."""
    config = copy.deepcopy(config)
    application(config, "recommender")["deployments"] = [{"name": "Ingress", "num_replicas": replicas}]
    return config


def test_after_2000_requests_through_churn_the_totals_are_what_the_client_counted(
    served: Cluster, config: Config
) -> None:
    def answered(scraped: Scraped) -> Counter[int]:
        statuses = {200: 0, 422: 0}
        return Counter(
            {s: int(value(scraped, "rayfunnel_requests_total", operation="rank", status=str(s))) for s in statuses}
        )

    def ask(number: int) -> int:
        # Every tenth is refused.
        items = [] if number % 10 == 0 else [f"i{number % 240}", f"i{number % 7}"]
        body = {"user_id": f"u{number % 80}", "item_ids": items, "deadline_ms": 10_000}
        return served.client.post("/v1/rank", json=body).status_code

    def send(count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            counted.update(pool.map(ask, range(count)))

    def up(replicas: int) -> bool:
        return (
            len(ingresses(served)) == replicas
            and value(scrape(served), "rayfunnel_replicas_ready", deployment="Ingress") >= replicas
        )

    before, counted = scrape(served), Counter[int]()
    started = answered(before)

    send(400)
    served.submit(scaled(config, 2))  # up
    wait_for("two ingress replicas", lambda: up(2))
    send(800)
    wait_for("all counts at the hub", lambda: answered(scrape(served)) - started == counted)
    pid = ingresses(served)[0]
    os.kill(pid, signal.SIGKILL)
    wait_for("another ingress replica", lambda: pid not in ingresses(served) and up(2))
    send(400)
    served.submit(scaled(config, 1))  # down
    send(400)
    wait_for(
        "one ingress replica, and wanted",
        lambda: len(ingresses(served)) == value(scrape(served), "rayfunnel_replicas_wanted", deployment="Ingress") == 1,
    )
    wait_for("all counts at the hub", lambda: answered(scrape(served)) - started == counted, within_s=10)

    assert counted == {200: 1800, 422: 200}
    after = scrape(served)
    assert not fallen(before, after)
    latencies = {"operation": "rank"}
    in_time = value(after, "rayfunnel_request_seconds_count", **latencies) - value(
        before, "rayfunnel_request_seconds_count", **latencies
    )
    assert in_time == 2000, "the histogram counts them too"
    assert all("replica" not in dict(labels) for _, labels in after)
    for stage in ("CandidateGenerator", "Scorer", "Ranker"):
        assert value(after, "rayfunnel_stage_requests_total", deployment=stage, outcome="completed") > 0
    for deployment in ("Ingress", "CandidateGenerator", "Scorer", "Ranker"):
        assert value(after, "rayfunnel_cpu_seconds_total", deployment=deployment) > 0
        assert value(after, "rayfunnel_memory_bytes", deployment=deployment) > 1e7
        assert value(after, "rayfunnel_replicas_wanted", deployment=deployment) == 1
    shown = {OF_SAMPLE[name].name for name, _ in after}
    without = {"rayfunnel_gpu_memory_bytes", "rayfunnel_gpu_utilization_ratio"}  # the GPUs here are so in name only
    # Nothing of that happened yet, perhaps.
    without |= {"rayfunnel_degraded_total", "rayfunnel_backend_stand_in_total", "rayfunnel_drift_verdict"}
    assert set(DECLARED) - without <= shown


def test_a_killed_hub_costs_no_answer_and_its_totals_come_back_and_do_not_fall(served: Cluster, config: Config) -> None:
    served.deploy(config)
    for number in range(50):
        served.recommend(f"u{number}")
    before = scrape(served)
    assert value(before, "rayfunnel_hub_up") == 1
    hub = next(replica for replica in served.replicas() if replica.deployment == "MetricsHub")

    os.kill(hub.pid, signal.SIGKILL)
    killed = time.time()
    seen = [scrape(served)]
    for number in range(50):
        assert served.recommend(f"u{number}")["degraded"] == []

    def back() -> bool:
        seen.append(scrape(served))
        return value(seen[-1], "rayfunnel_hub_up") == 1 and (
            value(seen[-1], "rayfunnel_hub_started_timestamp_seconds") > killed
        )

    wait_for("another hub", back)
    assert not [fall for one, next_one in zip([before, *seen], seen, strict=False) if (fall := fallen(one, next_one))]
    requests = {"operation": "recommend", "status": "200"}
    assert value(seen[-1], "rayfunnel_requests_total", **requests) >= 50 + value(
        before, "rayfunnel_requests_total", **requests
    )
