"""`data.yaml` and `--columns`: where the tables of a data set are, how their columns are called, what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from deployments.errors import DataError
from deployments.validation_errors import field_errors
from graphs.data.findings import near

INTERACTIONS, ITEMS, USERS = "interactions", "items", "users"
TABLES = (INTERACTIONS, ITEMS, USERS)

FIELDS: Mapping[str, tuple[str, ...]] = {
    INTERACTIONS: ("user_id", "item_id", "timestamp", "event_type", "event_id", "weight"),
    ITEMS: ("item_id", "title"),
    USERS: ("user_id",),
}
"""The columns that mean something, per table."""

_KNOWN = [name for names in FIELDS.values() for name in names]
_KNOWN += [f"{table}.{name}" for table, names in FIELDS.items() for name in names]

Unit = Literal["", "s", "ms", "us", "ns"]


def _known_columns(columns: dict[str, str]) -> dict[str, str]:
    for name in columns:
        if name not in _KNOWN:
            close = near(name, _KNOWN)
            raise ValueError(
                f"{name!r} is none of the columns that are read ({', '.join(dict.fromkeys(_KNOWN))})"
                + (f"; did you mean {close}?" if close else "")
            )
    return columns


class Rating(BaseModel):
    """A rating on any scale as a weight."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    column: str = Field(min_length=1)
    """The column with the ratings."""
    success_from: float = Field(allow_inf_nan=False)
    """The lowest rating that is a success: it becomes the weight 0.8, and the highest rating of the data 1."""
    lowest: float = Field(0.1, ge=-1, le=0.79)
    """The weight of the lowest rating of the data; negative if it speaks against the item."""


class DataConfig(BaseModel):
    """`data.yaml` in the folder of the data. Every key is optional."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    interactions: str = ""
    """The file or folder of the events, from the folder of data.yaml, or a URI. Empty: `interactions` with any known
    ending, or a folder of that name."""
    items: str = ""
    """The same for the items; they may be missing."""
    users: str = ""
    """The same for the users; they may be missing."""
    columns: Annotated[dict[str, str], AfterValidator(_known_columns)] = {}
    """Our name to yours: `{user_id: customer, item_id: sku}`. `items.item_id: id` names the column of one table."""
    weight: Rating | None = None
    """How a rating becomes the weight of its event; left out: a column `weight` in [-1, 1], if there is one."""
    event_type: str = ""
    """The type of all events, of data without such a column."""
    time_unit: Unit = ""
    """Of timestamps that are numbers; empty: by their size."""
    max_events_per_user: int = Field(2500, ge=10)
    """Of a user with more events the newest are kept. The store keeps `store.history_limit`."""

    @field_validator("columns", mode="before")
    @classmethod
    def _as_text(cls, columns: Any) -> Any:
        return {str(k): str(v) for k, v in columns.items()} if isinstance(columns, Mapping) else columns

    def path(self, table: str) -> str:
        """Where a table is; empty: not said."""
        return str(getattr(self, table))

    def column(self, table: str, field: str) -> tuple[str, bool]:
        """The name of a column in the file of `table`, and whether it must be there as named."""
        if field == "weight" and self.weight:
            return self.weight.column, True
        if named := self.columns.get(f"{table}.{field}"):
            return named, True
        named = self.columns.get(field, field)
        return named, named != field and table == INTERACTIONS

    def with_columns(self, columns: str) -> DataConfig:
        """This configuration with the names that `--columns user_id=customer,item_id=sku` gives.

        Raises:
            DataError: it is not written so, or names a column that is not read.
        """
        given: dict[str, str] = {}
        for part in filter(None, (each.strip() for each in columns.split(","))):
            ours, equals, theirs = part.partition("=")
            if not (equals and ours.strip() and theirs.strip()):
                raise DataError(f"--columns: {part!r} is not NAME=COLUMN; write --columns user_id=customer,item_id=sku")
            given[ours.strip()] = theirs.strip()
        if not given:
            return self
        return parse_data_config({**self.model_dump(exclude_unset=True), "columns": self.columns | given}, "--columns")


def parse_data_config(content: Any, file: str) -> DataConfig:
    """The content of a data.yaml.

    Raises:
        DataError: naming the file, the key, the value and the nearest known key.
    """
    if content is None:
        return DataConfig()
    if not isinstance(content, Mapping):
        raise DataError(f"{file}: should be a mapping, such as `columns: {{user_id: customer}}`")
    try:
        return DataConfig.model_validate(dict(content))
    except ValidationError as error:
        wrong = field_errors(error, "", "is missing; add it")
        raise DataError("; ".join(f"{file}: {_sentence(*each)}" for each in wrong)) from None


def read_data_config(text: bytes, file: str) -> DataConfig:
    """A data.yaml from its bytes.

    Raises:
        DataError: as `parse_data_config`, or it is no YAML.
    """
    try:
        return parse_data_config(yaml.safe_load(text), file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not YAML: {' '.join(str(error).split())}") from None


def _sentence(field: str, message: str, value: str | None) -> str:
    if message:
        return f"{field} {message}" if value is None else f"{field} = {value}: {message.removeprefix('Value error, ')}"
    *parents, last = field.split(".")
    known = Rating.model_fields if parents[:1] == ["weight"] else DataConfig.model_fields
    close = near(last, known)
    remedy = f"did you mean {close}?" if close else f"the keys are {', '.join(known)}"
    return f"{field} is not a known key; {remedy}"
