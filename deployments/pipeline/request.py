"""A caller's request, translated for the funnel: when it came, what it asks for, and many of them as columns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from deployments.messages import (
    PAD,
    Filter,
    Ints,
    RequestBatch,
)

came_at: ContextVar[float] = ContextVar("came_at", default=0.0)
"""Unix seconds at which the request of this context arrived; 0: not known."""


def arrival() -> float:
    """When the request of this context arrived, in Unix seconds; now, if that is not known."""
    return came_at.get() or time.time()


@dataclass(frozen=True, slots=True)
class Query:
    """A request with its ids translated to catalogue positions. `deadline`: Unix seconds."""

    user_id: str
    n: int
    deadline: float
    excluded: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    given: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    filter: Filter | None = None
    context: Mapping[str, str | float | bool] | None = None
    unknown: int = 0
    """Number of item ids in the request that the catalogue does not have."""

    identity: tuple[object, ...] = field(init=False, repr=False)
    """Everything that the answer depends on: queries with equal identities have the same answer."""

    def __post_init__(self) -> None:
        context = tuple(self.context.items()) if self.context else ()
        identity = self.user_id, self.n, self.excluded.tobytes(), self.given.tobytes(), self.filter, context
        object.__setattr__(self, "identity", identity)


def request_batch(queries: Sequence[Query], model_version: str) -> RequestBatch:
    """The queries as columns. Equal filters, and equal contexts, share a row of their table."""
    filters: dict[Filter, int] = {}
    contexts: list[Mapping[str, str | float | bool]] = []
    filter_B, context_B = [], []
    for query in queries:
        filter_B.append(PAD if query.filter is None else filters.setdefault(query.filter, len(filters)))
        if query.context and query.context not in contexts:
            contexts.append(query.context)
        context_B.append(contexts.index(query.context) if query.context else PAD)
    return RequestBatch(
        model_version=model_version,
        n_B=np.array([q.n for q in queries], np.int32),
        excluded_BX=_padded([q.excluded for q in queries]),
        given_BG=_padded([q.given for q in queries]),
        filter_B=np.array(filter_B, np.int32),
        context_B=np.array(context_B, np.int32),
        filters=tuple(filters),
        contexts=tuple(contexts),
    )


def _padded(rows: Sequence[Ints]) -> Ints:
    padded = np.full((len(rows), max(map(len, rows), default=0)), PAD, np.int32)
    for row, values in enumerate(rows):
        padded[row, : len(values)] = values
    return padded
