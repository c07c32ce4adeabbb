"""Everything that refuses, cuts or skips work when there is too much of it. BOUNDS is the one table of all bounds, in
the order in which a request meets them. Bounds on a resource (the store, a GPU's memory) are enforced beside it and
listed here. May import errors only. Start with concurrency_limit.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Bound:
    """A row of the table; `python -m graphs docs` writes it to docs/overload.md."""

    bound: str
    """What is bounded."""
    setting: str
    """Where its value is: a path below `args:` of the recommender (`batcher.max_queue`), or `module:CONSTANT`."""
    past_it: str
    """What happens past it."""
    enforced_in: str
    """The file that enforces it."""
    metric: str
    """The series that counts it; empty: none."""
    alert: str
    """The alert that fires on it; empty: none."""
    kind: Literal["safety", "gain"]
    """safety: without it memory, connections or waiting times grow without limit. gain: measured to pay for itself."""
    evidence: str
    """safety: the tests that show the bound; gain: words of benchmarks/NOTES.md that begin the measurement."""


_HERE = "deployments/pipeline/overload"
_TESTS = "tests/deployments"
_SHED = "rayfunnel_shed_total"
_DEGRADED = "rayfunnel_degraded_total"

BOUNDS = (
    Bound(
        "recommend and rank requests under way in an ingress replica",
        "batcher.max_queue + batcher.in_flight * batcher.max_batch",
        "503 with Retry-After, before the body is parsed. Lower while requests wait for more than the middle of"
        " `pipeline.quality.from_wait` and `to_wait` of their time, never below all batches in flight",
        f"{_HERE}/concurrency_limit.py",
        f'{_SHED}{{reason="queue"}}',
        "RayfunnelShedding",
        "safety",
        f"{_TESTS}/api/fast_path/test_connection.py",
    ),
    Bound(
        "similar requests under way in an ingress replica",
        "limits.similar",
        "503 with Retry-After",
        f"{_HERE}/concurrency_limit.py",
        f'{_SHED}{{reason="similar"}}',
        "RayfunnelShedding",
        "safety",
        f"{_TESTS}/api/test_operations.py",
    ),
    Bound(
        "requests that record events under way in an ingress replica",
        "limits.events",
        "503 with Retry-After; recommendations keep their room",
        f"{_HERE}/concurrency_limit.py",
        f'{_SHED}{{reason="events"}}',
        "RayfunnelShedding",
        "safety",
        f"{_TESTS}/api/test_operations.py",
    ),
    Bound(
        "refusals a second that are written at once by an ingress replica",
        "deployments.pipeline.overload.refusal_pacing:REFUSALS_PER_S",
        "the 503 is written up to half a second later, which slows down clients that ask again at once",
        f"{_HERE}/refusal_pacing.py",
        "",
        "",
        "gain",
        "Clients who ask again as soon as they are refused",
    ),
    Bound(
        "bytes of a refused request's body that are read and discarded",
        "deployments.api.fast_path.connection:MOST_DISCARDED",
        "the request goes to uvicorn, and a body over `http.max_body_bytes` is refused with 413",
        "deployments/api/fast_path/connection.py",
        "",
        "",
        "safety",
        f"{_TESTS}/api/fast_path/test_connection.py",
    ),
    Bound(
        "bytes of a body",
        "http.max_body_bytes",
        "413, unread",
        "deployments/api/http.py",
        "",
        "",
        "safety",
        f"{_TESTS}/api/test_http.py",
    ),
    Bound(
        "requests of all kinds that Serve gives an ingress replica",
        "batcher.max_queue + batcher.in_flight * batcher.max_batch + limits.similar + limits.events + 64",
        "Serve answers 503, or raises BackPressureError in a handle caller; no metric of ours counts it",
        "graphs/recommendation.py",
        "",
        "",
        "safety",
        "tests/e2e/test_overload.py",
    ),
    Bound(
        "time between the deadlines of equal requests in the queue",
        "deployments.pipeline.pipeline:JOIN_WITHIN_S",
        "within it the later request shares the earlier one's answer",
        "deployments/pipeline/pipeline.py",
        'rayfunnel_cache_total{outcome="joined"}',
        "",
        "gain",
        "",
    ),
    Bound(
        "recommend and rank requests in the queue of an ingress replica",
        "batcher.max_queue",
        "503 with Retry-After",
        "deployments/pipeline/batcher.py",
        f'{_SHED}{{reason="queue"}}',
        "RayfunnelShedding",
        "safety",
        f"{_TESTS}/pipeline/test_batcher.py",
    ),
    Bound(
        "pause before the batch that follows an answered one",
        "batcher.linger_ms",
        "the next batch leaves, however small",
        "deployments/pipeline/batcher.py",
        "",
        "",
        "gain",
        "",
    ),
    Bound(
        "time left of a batch that leaves the queue, against the time that batches have lately taken",
        "deployments.pipeline.overload.late_work:SHORT_WAIT",
        "a batch that would be late gets popular items at once (`scoring:quality`)",
        f"{_HERE}/late_work.py",
        f'{_DEGRADED}{{reason="quality"}}',
        "RayfunnelDegraded",
        "gain",
        "",
    ),
    Bound(
        "share of its time that a request waits in the queue",
        "pipeline.quality.from_wait",
        "fewer candidates are scored; below `floor` none are; past `to_wait` the answer is popular items",
        f"{_HERE}/quality_factor.py",
        f'{_DEGRADED}{{reason="quality"}}',
        "RayfunnelDegraded",
        "gain",
        "",
    ),
    Bound(
        "time until a request's deadline",
        "pipeline.deadline_ms",
        "the answer is made of the stages that are through, and fallbacks for the rest (`<stage>:deadline`)",
        "deployments/pipeline/pipeline.py",
        "rayfunnel_expired_total",
        "RayfunnelExpiring",
        "safety",
        f"{_TESTS}/pipeline/test_pipeline.py",
    ),
    Bound(
        "time for one read of the store",
        "store.timeout_ms",
        "cold-start profiles (`profile:store`)",
        "deployments/store/redis.py",
        f'{_DEGRADED}{{stage="profile",reason="store"}}',
        "RayfunnelDegraded",
        "safety",
        "tests/contracts/store_contract.py",
    ),
    Bound(
        "failed store calls in a row",
        "store.breaker_failures",
        "for `store.breaker_reset_s` the store is not called: `profile:store`, and 503 for events",
        "deployments/store/circuit_breaker.py",
        "rayfunnel_store_up",
        "RayfunnelStoreDown",
        "safety",
        f"{_TESTS}/store/test_circuit_breaker.py",
    ),
    Bound(
        "connections to the store, for reads and for writes",
        "deployments.store.redis:READ_CONNECTIONS",
        "a call waits for a connection, within its time-out",
        "deployments/store/redis.py",
        "",
        "",
        "safety",
        f"{_TESTS}/store/test_store.py",
    ),
    Bound(
        "share of a batch's time by which each stage must have answered",
        "pipeline.finished_by",
        "the stage's fallback (`<stage>:timeout`)",
        "deployments/pipeline/stage_client.py",
        f'{_DEGRADED}{{reason="timeout"}}',
        "RayfunnelDegraded",
        "safety",
        f"{_TESTS}/pipeline/test_stage_client.py",
    ),
    Bound(
        "calls under way from an ingress replica to a stage",
        "stages.scoring.slots",
        "a call waits for a slot until its deadline; if abandoned calls hold all slots it fails at once"
        " (`<stage>:busy`)",
        "deployments/pipeline/stage_client.py",
        f'{_DEGRADED}{{reason="busy"}}',
        "RayfunnelDegraded",
        "safety",
        f"{_TESTS}/pipeline/test_stage_client.py",
    ),
    Bound(
        "batches that Serve gives a stage replica: twice the slots of all ingress replicas",
        "stages.scoring.slots",
        "the caller's router waits for a replica with room",
        "graphs/recommendation.py",
        "",
        "RayfunnelStageQueueLong",
        "safety",
        f"{_TESTS}/replicas/test_router.py",
    ),
    Bound(
        "time left of a call in a stage replica, against the time that calls have lately taken",
        "deployments.pipeline.overload.service_time:VALID_S",
        "the call is not started (`<stage>:timeout`)",
        "deployments/pipeline/request_coalescer.py",
        'rayfunnel_stage_requests_total{outcome="expired"}',
        "RayfunnelDegraded",
        "gain",
        "",
    ),
    Bound(
        "rows that a stage replica computes together",
        "stages.scoring.max_rows",
        "the rest is computed next; halved when a GPU's memory runs out",
        "deployments/stages/oom_guard.py",
        "rayfunnel_stage_batch_size",
        "",
        "safety",
        f"{_TESTS}/stages/test_oom_guard.py",
    ),
    Bound(
        "entries that wait to be written to the result cache",
        "deployments.pipeline.result_cache:MOST_WAITING",
        "results are not cached",
        "deployments/pipeline/result_cache.py",
        "",
        "",
        "safety",
        f"{_TESTS}/pipeline/test_result_cache.py",
    ),
)
"""In the order in which a request meets them."""
