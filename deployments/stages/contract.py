"""The contract that every stage keeps.

A stage is built once from an artifact and its own config, then called with messages and returns one message:

    profiles   = Profiles(histories)
    candidates = CandidateGenerator(requests, profiles)
    scores     = Scorer(profiles, candidates)
    ranked     = Ranker(requests, candidates, scores)

It is synchronous, deterministic, never writes to its inputs, and knows nothing of Ray, HTTP, deadlines or metrics.
Several threads may call it at once. So the same class runs in a Serve replica, in the ingress process, in a batch job
and in a test.
"""

from __future__ import annotations

from typing import Any, Protocol

from deployments.messages import Batch


class Stage(Protocol):
    """The contract; tests/contracts/ holds the suite that every stage passes."""

    model_version: str

    def __call__(self, *batches: Any) -> Batch: ...
