"""The table of all bounds (BOUNDS, in the order in which a request meets them), and the laws by which work is refused,
cut or skipped when there is too much of it. The files that BOUNDS names enforce them. May import errors.
Start with concurrency_limit.py.
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
    """safety: `file::test` that shows the bound; gain: words of benchmarks/NOTES.md that begin the measurement."""


_HERE = "deployments/pipeline/overload"
_PIPELINE = "deployments/pipeline"
_TESTS = "tests/deployments"
_SHED = "rayfunnel_shed_total"
_DEGRADED = "rayfunnel_degraded_total"

BOUNDS = (
    Bound(
        bound="bytes of a body",
        setting="http.max_body_bytes",
        past_it="413; a body that announces its length is not read, another up to the limit",
        enforced_in="deployments/api/http.py",
        metric='rayfunnel_requests_total{status="413"}',
        alert="",
        kind="safety",
        evidence=f"{_TESTS}/api/test_http.py::test_a_body_over_the_limit_is_413_with_and_without_content_length",
    ),
    Bound(
        bound="recommend and rank requests under way in an ingress replica",
        setting="batcher.most_under_way",
        past_it=(
            "503 with Retry-After, before the body is parsed. The limit falls while requests wait for more than "
            "`pipeline.queue_share` of their time, never below all batches in flight"
        ),
        enforced_in=f"{_HERE}/concurrency_limit.py",
        metric=f'{_SHED}{{reason="queue"}}',
        alert="RayfunnelShedding",
        kind="safety",
        evidence=(
            f"{_TESTS}/api/fast_path/test_connection.py::"
            "test_past_the_limit_requests_are_refused_with_a_remedy_and_later_let_in_on_the_same_connection"
        ),
    ),
    Bound(
        bound="similar requests under way in an ingress replica",
        setting="limits.similar",
        past_it="503 with Retry-After",
        enforced_in=f"{_HERE}/concurrency_limit.py",
        metric=f'{_SHED}{{reason="similar"}}',
        alert="RayfunnelShedding",
        kind="safety",
        evidence=f"{_TESTS}/api/test_operations.py::test_similar_is_refused_at_its_limit",
    ),
    Bound(
        bound="requests that record events under way in an ingress replica",
        setting="limits.events",
        past_it="503 with Retry-After; recommendations keep their slots",
        enforced_in=f"{_HERE}/concurrency_limit.py",
        metric=f'{_SHED}{{reason="events"}}',
        alert="RayfunnelShedding",
        kind="safety",
        evidence=(
            f"{_TESTS}/api/test_operations.py::"
            "test_a_flood_of_events_is_refused_at_its_limit_while_recommendations_are_answered"
        ),
    ),
    Bound(
        bound="event requests that an ingress replica processes at a time",
        setting="limits.events_at_a_time",
        past_it="the others wait, in order of arrival",
        enforced_in="deployments/api/operations.py",
        metric="",
        alert="",
        kind="gain",
        evidence="A flood of events took the event loop from recommendations",
    ),
    Bound(
        bound="refusals a second that an ingress replica writes at once",
        setting="deployments.pipeline.overload.refusal_pacing:REFUSALS_PER_S",
        past_it="the 503 is written up to half a second later; clients that retry at once leave time to answer",
        enforced_in=f"{_HERE}/refusal_pacing.py",
        metric="",
        alert="",
        kind="gain",
        evidence="Refusals beyond 500 a second are delayed",
    ),
    Bound(
        bound="requests that Serve gives an ingress replica",
        setting="most_ongoing",
        past_it=(
            "as many again wait in Serve, then it answers 503 or raises BackPressureError in a handle's "
            "caller; our metrics do not show it"
        ),
        enforced_in="graphs/recommendation.py",
        metric="",
        alert="",
        kind="safety",
        evidence=(
            "tests/graphs/test_builders.py::test_serve_bounds_the_requests_of_an_ingress_replica_above_our_own_limits"
        ),
    ),
    Bound(
        bound="seconds between the deadlines of equal requests in the queue",
        setting="deployments.pipeline.pipeline:JOIN_WITHIN_S",
        past_it="within it the later request shares the earlier one's answer",
        enforced_in=f"{_PIPELINE}/pipeline.py",
        metric='rayfunnel_cache_total{outcome="joined"}',
        alert="",
        kind="gain",
        evidence="What each mechanism against overload earns",
    ),
    Bound(
        bound="recommend and rank requests in the queue of an ingress replica",
        setting="batcher.max_queue",
        past_it="503 with Retry-After",
        enforced_in=f"{_PIPELINE}/batcher.py",
        metric=f'{_SHED}{{reason="queue"}}',
        alert="RayfunnelShedding",
        kind="safety",
        evidence=(
            f"{_TESTS}/pipeline/test_batcher.py::"
            "test_past_the_bound_a_request_is_refused_at_once_and_the_queue_is_untouched"
        ),
    ),
    Bound(
        bound="pause before the batch that follows an answered one",
        setting="batcher.linger_ms",
        past_it="the next batch leaves, however small",
        enforced_in=f"{_PIPELINE}/batcher.py",
        metric="",
        alert="",
        kind="gain",
        evidence="What each mechanism against overload earns",
    ),
    Bound(
        bound="expected time of a batch, against its time left",
        setting="deployments.pipeline.overload.late_work:SHORT_WAIT",
        past_it=(
            "the batch gets popular items at once (`candidates:late` and the stages after it); one that "
            "waited for a smaller share of its time than this is always started"
        ),
        enforced_in=f"{_HERE}/late_work.py",
        metric=f'{_DEGRADED}{{reason="late"}}',
        alert="RayfunnelDegraded",
        kind="gain",
        evidence="What each mechanism against overload earns",
    ),
    Bound(
        bound="milliseconds until a request's deadline",
        setting="pipeline.deadline_ms",
        past_it=("the answer is made of the stages that are through, and fallbacks for the rest (`<stage>:deadline`)"),
        enforced_in=f"{_PIPELINE}/pipeline.py",
        metric="rayfunnel_expired_total",
        alert="RayfunnelExpiring",
        kind="safety",
        evidence=(
            f"{_TESTS}/pipeline/test_pipeline.py::"
            "test_a_request_that_can_not_leave_the_queue_in_time_gets_popular_items"
        ),
    ),
    Bound(
        bound="milliseconds of a round trip that reads the store",
        setting="store.timeout_ms",
        past_it="cold-start profiles (`profile:store`)",
        enforced_in="deployments/store/redis.py",
        metric=f'{_DEGRADED}{{stage="profile",reason="store"}}',
        alert="RayfunnelDegraded",
        kind="safety",
        evidence=f"{_TESTS}/store/test_store.py::test_a_slow_server_times_out_and_later_answers_are_not_mixed_up",
    ),
    Bound(
        bound="milliseconds of a round trip that writes events",
        setting="store.write_timeout_ms",
        past_it="503; the events can be sent again",
        enforced_in="deployments/store/redis.py",
        metric="",
        alert="RayfunnelErrors",
        kind="safety",
        evidence=(f"{_TESTS}/store/test_store.py::test_an_event_that_was_not_stored_is_reported_and_can_be_sent_again"),
    ),
    Bound(
        bound="failed store calls in a row",
        setting="store.breaker_failures",
        past_it="for `store.breaker_reset_s` the store is not called: `profile:store`, and 503 for events",
        enforced_in="deployments/store/circuit_breaker.py",
        metric=f'{_DEGRADED}{{stage="profile",reason="store"}}',
        alert="RayfunnelDegraded",
        kind="safety",
        evidence=f"{_TESTS}/store/test_circuit_breaker.py::test_it_opens_after_so_many_failures_in_a_row",
    ),
    Bound(
        bound="connections to the store for reads",
        setting="deployments.store.redis:READ_CONNECTIONS",
        past_it="a call waits for a connection, within its time-out",
        enforced_in="deployments/store/redis.py",
        metric="",
        alert="",
        kind="safety",
        evidence=f"{_TESTS}/store/test_store.py::test_more_calls_than_connections_wait_for_one",
    ),
    Bound(
        bound="connections to the store for writes",
        setting="deployments.store.redis:WRITE_CONNECTIONS",
        past_it="a call waits for a connection, within its time-out",
        enforced_in="deployments/store/redis.py",
        metric="",
        alert="",
        kind="safety",
        evidence=f"{_TESTS}/store/test_store.py::test_more_calls_than_connections_wait_for_one",
    ),
    Bound(
        bound="share of a batch's time by which each stage must have answered",
        setting="pipeline.finished_by",
        past_it="the stage's fallback (`<stage>:timeout`)",
        enforced_in=f"{_PIPELINE}/stage_client.py",
        metric=f'{_DEGRADED}{{reason="timeout"}}',
        alert="RayfunnelDegraded",
        kind="safety",
        evidence=(
            f"{_TESTS}/pipeline/test_pipeline.py::test_a_stage_that_hangs_costs_its_share_of_the_deadline_and_no_more"
        ),
    ),
    Bound(
        bound="calls under way from an ingress replica to each stage, and as many for similar",
        setting="stages.scoring.slots",
        past_it=(
            "a call waits for a slot until its deadline; if abandoned calls hold all slots it fails at once "
            "(`<stage>:busy`)"
        ),
        enforced_in=f"{_PIPELINE}/stage_client.py",
        metric=f'{_DEGRADED}{{reason="busy"}}',
        alert="RayfunnelDegraded",
        kind="safety",
        evidence=(
            f"{_TESTS}/pipeline/test_stage_client.py::"
            "test_a_call_is_given_up_at_its_deadline_and_holds_its_slot_until_it_returns"
        ),
    ),
    Bound(
        bound="calls that Serve gives a stage replica: twice `slots` for each ingress replica",
        setting="stages.scoring.slots",
        past_it="the caller's router waits for a replica with room",
        enforced_in="graphs/recommendation.py",
        metric="",
        alert="RayfunnelStageQueueLong",
        kind="safety",
        evidence="tests/graphs/test_builders.py::test_serve_bounds_the_calls_of_a_stage_replica",
    ),
    Bound(
        bound="rows of the calls that a stage replica joins",
        setting="stages.scoring.max_rows",
        past_it="the next calls are computed afterwards; a single larger call is computed whole",
        enforced_in=f"{_PIPELINE}/call_batcher.py",
        metric="",
        alert="",
        kind="safety",
        evidence=f"{_TESTS}/pipeline/test_call_batcher.py::test_no_more_rows_than_max_rows_go_together",
    ),
    Bound(
        bound="entries that wait to be written to the result cache",
        setting="deployments.pipeline.result_cache:MOST_WAITING",
        past_it="the results of further batches are not cached",
        enforced_in=f"{_PIPELINE}/result_cache.py",
        metric="",
        alert="",
        kind="safety",
        evidence=(
            f"{_TESTS}/pipeline/test_result_cache.py::"
            "test_entries_that_wait_for_a_slow_store_are_written_together_up_to_a_bound"
        ),
    ),
)
"""In the order in which a request meets them."""
