"""The bodies of responses: items with their metadata, and the reasons for their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.responses import Response

from deployments.artifact.catalogue import Catalogue
from deployments.errors import FunnelError
from deployments.messages import PAD
from deployments.pipeline.batch import Answer
from deployments.store.events import Event
from monitoring.logs.context import incoming_request_id


def items(
    catalogue: Catalogue, positions: Sequence[int], scores: Sequence[float], sources: Sequence[str], metadata: bool
) -> list[dict[str, Any]]:
    """The items at these catalogue positions, in this order."""
    item_ids = catalogue.item_ids
    shown: list[dict[str, Any]] = [
        {"item_id": item_ids[position], "score": score, "source": source}
        for position, score, source in zip(positions, scores, sources, strict=True)
    ]
    if metadata:
        for item, position in zip(shown, positions, strict=True):
            item["metadata"] = catalogue.metadata(position)
    return shown


def reasons(answer: Answer, rule_names: Sequence[str]) -> list[dict[str, Any]]:
    """Per item: the scores of each source and of the model, and what the ranking stage changed."""
    batch, row = answer.batch, answer.row
    assert batch.candidates is not None
    assert batch.scores is not None
    assert batch.ranked is not None
    found = []
    for place, choice in enumerate(batch.ranked.choice_BN[row, : len(answer.items)].tolist()):
        rule = int(batch.ranked.rule_BN[row, place])
        by_source = batch.candidates.source_scores_BKS[row, choice].tolist()
        found.append(
            {
                "retrieval_score": float(batch.candidates.retrieval_scores_BK[row, choice]),
                "source_scores": dict(zip(batch.candidates.sources, by_source, strict=True)),
                "model_score": float(batch.scores.scores_BK[row, choice]),
                "rank_by_model": int(batch.ranked.score_rank_BN[row, place]) + 1,
                "diversity_penalty": float(batch.ranked.diversity_penalty_BN[row, place]),
                "rule": rule_names[rule] if rule != PAD else None,
            }
        )
    return found


def history(catalogue: Catalogue, events: Sequence[Event]) -> list[dict[str, Any]]:
    """A user's events, each item with its metadata."""
    positions = catalogue.positions([event.item_id for event in events]).tolist()
    return [
        {
            "item_id": event.item_id,
            "event_type": event.event_type,
            "timestamp": event.timestamp,
            "metadata": catalogue.metadata(position) if position != PAD else {},
        }
        for event, position in zip(events, positions, strict=True)
    ]


def problem(error: FunnelError, request_id: str = "") -> Response:
    """The problem document (RFC 9457) of `error`; `request_id`: of the request that it answers; empty: that of the
    context."""
    request_id = request_id or incoming_request_id.get()
    content = error.problem() | ({"request_id": request_id} if request_id else {})
    return Response(orjson.dumps(content), error.status, error.headers(), "application/problem+json")
