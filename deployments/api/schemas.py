"""The request bodies of the API, and the one place where bad input becomes an InvalidRequest."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from deployments.errors import InvalidRequest
from deployments.validation_errors import FieldError, field_errors


def _whole(value: object) -> object:
    """JSON has one kind of number, so 10.0 is an integer too (JSON Schema, 6.1.1)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MOST_ID_CHARACTERS, MOST_LABEL_CHARACTERS = 256, 64
CONTROL_CHARACTERS = r"[\x00-\x1f\x7f]"
_NO_CONTROL_CHARACTERS = r"^[^\x00-\x1f\x7f]+$"

Id = Annotated[str, StringConstraints(min_length=1, max_length=MOST_ID_CHARACTERS, pattern=_NO_CONTROL_CHARACTERS)]
"""An external id: 1 to 256 characters, none of them a control character. Training data have the same rule
(graphs/data/ids.py)."""

Label = Annotated[
    str, StringConstraints(min_length=1, max_length=MOST_LABEL_CHARACTERS, pattern=_NO_CONTROL_CHARACTERS)
]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=100), BeforeValidator(_whole)]
Milliseconds = Annotated[int, Field(ge=1, le=60_000), BeforeValidator(_whole)]
Scalar = bool | Number | Annotated[str, StringConstraints(max_length=256)]

MOST_GIVEN = 500
"""Items that one request may have ranked."""

_MOST_ERRORS = 20
"""Wrong fields that one answer names."""


class Body(BaseModel):
    """Strict: no unknown field, no silent conversion. Lists and dicts have factories, since pydantic copies
    defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Ranking(Body):
    """The fields that /v1/recommend and /v1/rank share."""

    user_id: Id
    """The user; an unknown one gets popular items."""
    context: dict[Label, Scalar] = Field(default_factory=dict, max_length=32)
    """Facts about the request; business rules can depend on them."""
    deadline_ms: Milliseconds | None = None
    """Time until the answer, degraded if need be; left out: that of the configuration."""
    explain: bool = False
    """Add the reasons of each item, and the timings of the request."""
    metadata: bool = False
    """Add title and attributes of each item."""


class RecommendRequest(Ranking):
    """The best items for a user."""

    n: Count = 10
    """Items in the answer."""
    exclude_ids: list[Id] = Field(default_factory=list, max_length=1000)
    """Items that the answer must not have."""
    filters: dict[Label, Any] = Field(default_factory=dict, max_length=16)
    """Conditions on item attributes, e.g. `{"genres": ["Comedy"], "year": {"gte": 1990}}`."""


class RankRequest(Ranking):
    """The given items, best first for a user."""

    item_ids: list[Id] = Field(min_length=1, max_length=MOST_GIVEN)
    """The items to rank."""


class SimilarRequest(Body):
    """Items like one item."""

    item_id: Id
    """The item that the others shall resemble."""
    n: Count = 10
    """Items in the answer."""
    metadata: bool = False
    """Add title and attributes of each item."""
    deadline_ms: Milliseconds | None = None
    """Time until the answer; left out: that of the configuration."""


class EventBody(Body):
    """An event of a user. Sent twice with the same `event_id` (or the same content), it counts once."""

    user_id: Id
    """The user."""
    item_id: Id
    """The item; one that is not in the catalogue is stored all the same."""
    event_type: Label
    """Such as `view`, `like`, `purchase`; `events.types` of the configuration says what it means."""
    timestamp: Number | None = Field(None, ge=0, le=4_102_444_800)
    """Unix seconds; now if left out."""
    event_id: Id | None = None
    """Your id of the event; left out: made from the content if there is a timestamp, else always new."""
    request_id: Id | None = None
    """`request_id` of the recommendation that led to it."""

    def identity(self) -> str:
        """The event's id. Without one, a dated event is identified by its content; an undated one is always new."""
        if self.event_id:
            return self.event_id
        if self.timestamp is None:
            return uuid.uuid4().hex
        content = (self.user_id, self.item_id, self.event_type, self.timestamp, self.request_id)
        return hashlib.blake2b(repr(content).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class EventsRequest(Body):
    """Up to 1,000 events; acknowledged only once the store has them."""

    events: list[EventBody] = Field(min_length=1, max_length=1000)
    """The events, in any order."""


BodyT = TypeVar("BodyT", bound=Body)


def parse(model: type[BodyT], body: bytes | Mapping[str, Any]) -> BodyT:
    """`body`, JSON bytes or a dict, as `model`.

    Raises:
        InvalidRequest: naming each field that is wrong, the value and what is accepted.
    """
    try:
        if isinstance(body, bytes):
            return model.model_validate_json(body)
        return model.model_validate(body)
    except ValidationError as error:
        unknown, missing = "unknown field; remove it, or see /docs for the fields there are", "required, but missing"
        wrong = field_errors(error, unknown, missing, most=_MOST_ERRORS)
        raise InvalidRequest([_field_and_message(each) for each in wrong]) from None


def _field_and_message(error: FieldError) -> tuple[str, str]:
    field = (error.field or "body")[:200]
    if error.value is None:
        return field, error.message
    shown = error.value if len(error.value) <= 60 else f"{error.value[:57]}..."
    return field, f"{error.message} (got {shown})"
