"""The bodies of responses, for the OpenAPI document. The dicts themselves are made in operations.py and responses.py;
a test holds every answer against these models."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Reason(_Described):
    """Why an item has its rank (`explain: true`)."""

    retrieval_score: float
    """The score that retrieval gave it."""
    source_scores: dict[str, float]
    """Each retrieval source's score."""
    model_score: float
    """The ranking model's score."""
    rank_by_model: int
    """Its rank by the model's score alone, from 1."""
    diversity_penalty: float
    """What the ranking stage took off for its likeness to the items above it."""
    rule: str | None
    """The business rule that placed it; null: none."""


class Item(_Described):
    """An item of an answer."""

    item_id: str
    """Its id."""
    score: float
    """Higher is better; comparable within one answer only."""
    source: str
    """The retrieval source that ranks it highest; `popular` where a fallback found it."""


class MetadataItem(Item):
    """An item with its metadata (`metadata: true`)."""

    metadata: dict[str, Any] | None = None
    """Title and attributes."""


class RankedItem(MetadataItem):
    """An item of recommend and rank."""

    reason: Reason | None = None
    """Present with `explain: true`."""


class SimilarResponse(_Described):
    """Items like one item, best first."""

    request_id: str
    """The request's id: the caller's X-Request-ID, or a new one."""
    item_id: str
    """The item that was asked about."""
    items: list[MetadataItem]
    """Best first."""
    model_version: str
    """The artifact that answered."""
    degraded: list[str]
    """`stage:reason` of each fallback; empty: the answer is a full one."""


class RecommendResponse(_Described):
    """The best items for a user, best first."""

    request_id: str
    """The request's id: the caller's X-Request-ID, or a new one. Send it with the events that follow."""
    user_id: str
    """The user that was asked for."""
    items: list[RankedItem]
    """Best first."""
    model_version: str
    """The artifact that answered."""
    degraded: list[str]
    """`stage:reason` of each fallback; empty: the answer is a full one."""
    timings_ms: dict[str, float] | None = None
    """Milliseconds in the queue and in each stage (`explain: true`)."""
    batch_size: int | None = None
    """Requests that were answered together (`explain: true`)."""


class RankResponse(RecommendResponse):
    """The given items, best first."""

    unknown_item_ids: list[str]
    """Given ids that the catalogue does not have."""


class EventsResponse(_Described):
    """The events are stored."""

    accepted: int
    """Events in the request."""
    duplicates: int
    """Of these, events that the store had already."""
    clamped: int
    """Of these, events dated more than a minute ahead; they are stored as of now."""
    unknown_item_ids: list[str]
    """Items that the model does not have; their events are stored."""


class FieldProblem(_Described):
    """What is wrong with one field."""

    field: str
    """Its path in the body."""
    message: str
    """The problem, and what is accepted."""


class Problem(_Described):
    """An error (RFC 9457)."""

    type: str
    """Always `about:blank`: the status says the kind."""
    title: str
    """The kind, in words."""
    status: int
    """The HTTP status."""
    detail: str
    """What happened, and the remedy."""
    errors: list[FieldProblem] | None = None
    """Every field that is wrong."""
    request_id: str | None = None
    """The request's id."""
