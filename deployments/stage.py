"""What a stage is. The same class runs in a Serve replica, in the ingress process, in a batch job and in a test.

A stage is built once from an artifact and its own config, then called with messages and returns one message:

    profiles   = Profiles(histories)
    candidates = CandidateGenerator(requests, profiles)
    scores     = Scorer(profiles, candidates)
    ranked     = Ranker(requests, candidates, scores)

It is synchronous, deterministic, never writes to its inputs, and knows nothing of Ray, HTTP, deadlines or metrics.
Calls may come from several threads at once.
"""

from __future__ import annotations

from typing import Protocol

from deployments.messages import Batch


class Stage(Protocol):
    """The contract; tests/contracts/ holds the suite that every stage passes."""

    model_version: str

    def __call__(self, *batches: Batch) -> Batch: ...
