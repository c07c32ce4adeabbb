"""The parity gate: which measurements pass, and the errors of combinations that must not serve."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.artifact.reader import Artifact
from deployments.errors import ConfigError
from deployments.models.backends.parity_gate import Gate
from deployments.stages.scoring import Scorer, ScorerConfig
from tests.deployments.models.backends.test_backends import gated


@pytest.mark.parametrize(
    ("gate", "passes"),
    [
        (Gate(requests=9, overlap=0.99, ndcg=0.1, plain_ndcg=0.1), True),
        (Gate(requests=9, overlap=0.9899, ndcg=0.1, plain_ndcg=0.1), False),
        (Gate(requests=9, overlap=1.0, ndcg=0.0998, plain_ndcg=0.1), False),
        (Gate(requests=9, overlap=1.0, ndcg=0.2, plain_ndcg=0.1), True),
        (Gate(unavailable="no compiler"), False),
    ],
)
def test_a_gate_needs_the_same_answers_and_the_same_quality(gate: Gate, passes: bool) -> None:
    assert gate.passed is passes


def test_a_combination_that_failed_is_refused_with_the_numbers(artifact: Artifact, tmp_path: Path) -> None:
    failed = Gate(requests=1000, overlap=0.961, ndcg=0.1, plain_ndcg=0.102)
    with pytest.raises(ConfigError) as refusal:
        Scorer(gated(artifact, tmp_path, eager__int8=failed), ScorerConfig(precision="int8"))
    assert str(refusal.value) == (
        "scoring: backend eager, precision int8 failed: top-10 overlap 0.9610 (at least 0.99), NDCG@10 loss 1.961% "
        "(at most 0.1%) on 1000 requests; use another combination, such as backend eager, precision fp32"
    )


def test_a_combination_that_was_not_gated_is_refused_with_the_remedy(artifact: Artifact) -> None:
    with pytest.raises(ConfigError, match="graphs package ARTIFACT --backend eager --precision bf16`, or use backend"):
        Scorer(artifact, ScorerConfig(precision="bf16"))
