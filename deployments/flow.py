"""A request on its way: the query, its ticket, and the batch (`Flow`) it travels in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import numpy as np

from deployments.messages import (
    PAD,
    CandidateBatch,
    Filter,
    Ints,
    ProfileBatch,
    RankedBatch,
    RequestBatch,
    ScoreBatch,
    Times,
)
from monitoring.request_log import Request, current_request

came_at: ContextVar[float] = ContextVar("came_at", default=0.0)
"""Unix seconds at which the request that is answered in this context came in; 0: nobody noted it."""


def arrival() -> float:
    """When the request that is answered here came in, Unix seconds: now, if nobody noted it."""
    return came_at.get() or time.time()


@dataclass(frozen=True, slots=True)
class Query:
    """One caller's request, ids translated to catalogue positions. `deadline`: Unix seconds."""

    user_id: str
    n: int
    deadline: float
    excluded: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    given: Ints = field(default_factory=lambda: np.empty(0, np.int32))
    filter: Filter | None = None
    context: Mapping[str, str | float | bool] | None = None
    unknown: int = 0
    """Item ids that the caller named and the catalogue does not have."""

    what: tuple[object, ...] = field(init=False, repr=False)
    """Everything that the answer depends on: two queries that agree in it have the same answer."""

    def __post_init__(self) -> None:
        context = tuple(self.context.items()) if self.context else ()
        what = self.user_id, self.n, self.excluded.tobytes(), self.given.tobytes(), self.filter, context
        object.__setattr__(self, "what", what)


@dataclass(frozen=True, slots=True)
class Answer:
    """One row of the funnel's result. `flow` holds the batch's messages, for whoever wants the details."""

    items: list[int]
    """Catalogue positions, best first."""
    scores: list[float]
    sources: list[str]
    degraded: list[str]
    row: int
    flow: Flow


@dataclass(frozen=True, slots=True)
class Cached:
    """What the cache has for a request. `columns`: the entry, empty: none; see `FunnelCache`."""

    key: str
    version: bytes
    columns: tuple[bytes, ...] = ()


class Ticket:
    """A request on its way through batcher and pipeline; the first answer wins."""

    __slots__ = ("answer", "arrived", "cached", "flow", "query", "request")

    def __init__(self, query: Query) -> None:
        self.query = query
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.arrived = arrival()
        self.flow: Flow | None = None
        self.cached: Cached | None = None
        self.request: Request | None = current_request()

    @property
    def done(self) -> bool:
        return self.answer.done()


@dataclass(slots=True)
class Flow:
    """One batch on its way: what is asked, and what each stage has given so far. Rows align with `tickets`."""

    tickets: list[Ticket]
    requests: RequestBatch
    size: int
    batch_id: str = ""
    began: float = field(default_factory=time.time)
    """Unix seconds; then it left the queue."""
    stage: str = "queue"
    quality: float = 1.0
    """See `deployments.quality`."""
    profiles: ProfileBatch | None = None
    candidates: CandidateBatch | None = None
    known: ScoreBatch | None = None
    """The scores that the cache had, NaN in the rows that it had none for. None: for no row."""
    scores: ScoreBatch | None = None
    ranked: RankedBatch | None = None
    latest_B: Times | None = None
    """Unix seconds of each user's last event, NaN: none."""
    degraded: list[str] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)

    def only(self, rows: Sequence[int]) -> Flow:
        """The same flow with these rows alone."""
        index = np.array(rows, np.intp)
        names = ("requests", "profiles", "candidates", "known", "scores", "ranked")
        messages = {name: getattr(self, name) for name in names}
        return replace(
            self,
            tickets=[self.tickets[row] for row in rows],
            degraded=list(self.degraded),
            timings_ms=dict(self.timings_ms),
            latest_B=None if self.latest_B is None else self.latest_B[index],
            **{name: batch and batch.take(index) for name, batch in messages.items()},
        )

    def put(self, rows: Sequence[int], part: Flow) -> None:
        """Takes these rows' scores, and candidates if they are fewer, from `part`; all other scores from the cache."""
        assert self.candidates is not None
        assert self.known is not None
        assert part.candidates is not None
        assert part.scores is not None
        others = np.setdiff1d(np.arange(len(self.tickets)), rows)
        order = np.argsort(np.concatenate([others, rows]))
        if part.candidates.share < 1:
            self.candidates = CandidateBatch.concat([self.candidates.take(others), part.candidates]).take(order)
        known = replace(part.scores, scores_BK=self.known.scores_BK[others])
        scores = ScoreBatch.concat([known, part.scores]).take(order)
        self.scores = replace(scores, scores_BK=np.where(self.candidates.mask_BK, scores.scores_BK, -np.inf))
        self.degraded = part.degraded

    def drop_answered(self) -> Flow:
        """Without the rows whose deadline came meanwhile: no further stage works for them."""
        rows = [row for row, ticket in enumerate(self.tickets) if not ticket.done]
        if len(rows) == len(self.tickets):
            return self
        rest = self.only(rows)
        for ticket in rest.tickets:
            ticket.flow = rest
        return rest


def request_batch(queries: Sequence[Query], model_version: str) -> RequestBatch:
    """Queries as columns; equal filters and contexts share a row of their table."""
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
