"""The contract of every stage.

A stage is built once from an artifact and its own config. A call takes messages and returns one message:

    profiles   = Profiles(histories)
    candidates = CandidateGenerator(requests, profiles)
    scores     = Scorer(profiles, candidates)
    ranked     = Ranker(requests, candidates, scores)

A stage is synchronous, deterministic and thread-safe. It never writes to its inputs, treats rows independently, and
refuses messages of another model version (VersionMismatch). It uses no Ray, HTTP, deadlines or metrics, so the same
class runs in a Serve replica, in the ingress process, in a batch job and in a test.
"""

from __future__ import annotations

from typing import Any, Protocol

from deployments.messages import Batch


class Stage(Protocol):
    """A stage, see the module; every stage passes the suite in tests/contracts/stage_contract.py."""

    model_version: str

    def __call__(self, *batches: Any) -> Batch:
        """B rows of each input message → B rows of the output message, in the same order."""
