"""schema.json: every input column of the models, with its transform, and the ranking model's inputs in order.

The one description of the features that training, serving, evaluation and the drift signals share.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from deployments.artifact.reader import REMEDY, Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.errors import ArtifactError
from deployments.models.features.ranker_inputs import STATISTICS, RankerInput, event_types, ranker_inputs
from deployments.models.features.transforms import (
    AsIs,
    Column,
    Dtype,
    MultiHot,
    Source,
    Transform,
    attribute_names,
    content_names,
)

SCHEMA_FILE = "schema.json"

_AS_IS = AsIs()


class Schema(BaseModel):
    """The content of schema.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    version: Literal[1] = 1
    """Version of the file's format."""
    columns: tuple[Column, ...]
    """The input columns: scores of the sources, history, users, items, statistics of items."""
    ranker: tuple[RankerInput, ...]
    """The F inputs of the ranking model, computed from the columns."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [(column.source, column.name) for column in self.columns]
        if len(set(names)) < len(names):
            raise ValueError("two columns of one source have the same name")
        if self.ranker != ranker_inputs(self.columns):
            raise ValueError("ranker does not list the inputs that this version of rayfunnel computes")
        return self

    @classmethod
    def of(
        cls, sources: Iterable[str], tables: Sequence[Column] = (), event_types: Sequence[str] | None = None
    ) -> Schema:
        """With the names of the candidate stage's `sources`, and the columns of users and items. `event_types`: those
        that the features of the user's own events tell apart, None: there are no such features."""
        own = []
        if event_types is not None:
            own.append(_history("age", "float32", missing=0.0))
        if event_types:
            types = MultiHot(values=tuple(event_types), buckets=0, seed=0)
            own.append(_history("type", "string", missing=-1.0, transform=types))
        columns = [
            *(_input(name, "source_score") for name in sources),
            _history("item", "int32", missing=-1.0),
            _history("weight", "float32", missing=0.0),
            *own,
            *(column for column in tables if column.source == "user"),
            *(column for column in tables if column.source == "item"),
            *(_input(name, "item_statistic") for name in (*STATISTICS, "log_events")),
        ]
        return cls(columns=tuple(columns), ranker=ranker_inputs(columns))

    @classmethod
    def load(cls, artifact: Artifact) -> Schema:
        """The schema of `artifact`.

        Raises:
            ArtifactError: the file is missing or is no schema of this version.
        """
        text = artifact.path(SCHEMA_FILE).read_bytes()
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ArtifactError(f"artifact {artifact.folder}: {SCHEMA_FILE}: {_mistake(error)}; {REMEDY}") from None

    def write(self, writer: ArtifactWriter) -> None:
        """Writes schema.json: strict JSON, a line per column and per input."""
        columns, ranker = map(_lines, (self.columns, self.ranker))
        text = f'{{\n "version": {self.version},\n "columns": [{columns}\n ],\n "ranker": [{ranker}\n ]\n}}\n'
        writer.file(SCHEMA_FILE).write_text(text, "utf-8")

    def of_source(self, source: Source) -> tuple[Column, ...]:
        """The columns of one source, in order."""
        return tuple(column for column in self.columns if column.source == source)

    @property
    def event_types(self) -> tuple[str, ...] | None:
        """Types of events, lower case; see `ranker_inputs.event_types`."""
        return event_types(self.columns)

    @property
    def user_features(self) -> list[str]:
        """Names of the features of users: content values, then attributes."""
        users = self.of_source("user")
        return content_names(users) + attribute_names(users)

    @property
    def item_attributes(self) -> list[str]:
        """Names of the attributes of items: of their columns, then statistics."""
        return [*attribute_names(self.of_source("item")), *STATISTICS]


def _input(name: str, source: Source) -> Column:
    return Column(name=name, source=source, dtype="float32", shape=(), missing=0.0, transform=_AS_IS)


def _history(name: str, dtype: Dtype, missing: float, transform: Transform = _AS_IS) -> Column:
    return Column(name=name, source="history", dtype=dtype, shape=(None,), missing=missing, transform=transform)


def _mistake(error: ValidationError) -> str:
    """The first mistake; of a transform that of the kind with the fewest, as pydantic tries every kind."""
    errors = error.errors()
    kind_of = [mistake["loc"][:4] for mistake in errors]
    first = min(errors, key=lambda mistake: kind_of.count(mistake["loc"][:4]))
    return f"{'.'.join(map(str, first['loc'])) or 'the columns'}: {first['msg']}"


def _lines(entries: Iterable[Any]) -> str:
    return ",".join(f"\n  {json.dumps(asdict(entry), allow_nan=False, ensure_ascii=False)}" for entry in entries)
