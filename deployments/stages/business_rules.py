"""Business rules of the ranking stage: boost, bury and pin items, in every request or in some contexts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.artifact.catalogue import Catalogue
from deployments.errors import ConfigError, InvalidRequest
from deployments.messages import PAD, Array, Bools, Floats, Ints, RequestBatch, take_columns


class Rule(BaseModel):
    """A business rule on the items that match `where` or are in `item_ids`. Several rules add up."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str = Field(min_length=1)
    """Name of the rule; the answer to a request with `explain` gives it as the reason."""
    action: Literal["boost", "bury", "pin"]
    """`boost`, `bury`: adds or subtracts `amount`. `pin`: puts the best matching candidate at `position`."""
    where: dict[str, Any] = {}
    """The items, as in a request's `filters`. Give either `where` or `item_ids`."""
    item_ids: tuple[str, ...] = ()
    """The items, by id; at least one must be in the catalogue."""
    when: dict[str, str | float | bool] = {}
    """Entries that the request's `context` must have, same type and same value. Empty: the rule always applies."""
    amount: float = Field(0.0, ge=0.0, le=1e6)
    """Of boost and bury, in standard deviations of the model scores of the request's candidates: 1.0 is strong, 0.1
    weak, whatever the model's scale."""
    position: int = Field(0, ge=0, le=500)
    """Of pin, one item per rule; 1 is first. The rule does nothing if the answer is shorter, or if an earlier rule has
    filled the position."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.where) == bool(self.item_ids):
            raise ValueError(f"rule {self.name!r}: give either where or item_ids")
        needed, other = ("position", "amount") if self.action == "pin" else ("amount", "position")
        if not getattr(self, needed) or getattr(self, other):
            raise ValueError(f"rule {self.name!r}: {self.action} takes {needed} > 0 and no {other}")
        return self


@dataclass(frozen=True, slots=True)
class BoundRule:
    """A rule bound to a catalogue of N items."""

    index: int
    """Its index in the configuration, for `RankedBatch.rule_BN`."""
    config: Rule
    items_N: Bools

    def matches(self, requests: RequestBatch, items_BK: Ints) -> Bools:
        """bool [B, K]: the candidates to which the rule applies, in the requests whose context has all of `when`."""
        when = self.config.when
        table = [all(_has_entry(context, name, value) for name, value in when.items()) for context in requests.contexts]
        active_B = np.array([*table, not when])[requests.context_B]  # PAD, no context, indexes the last entry
        return active_B[:, None] & (items_BK >= 0) & self.items_N[items_BK]


def _has_entry(context: Mapping[str, str | float | bool], name: str, value: str | float | bool) -> bool:
    found = context.get(name)
    return found == value and isinstance(found, bool) == isinstance(value, bool)


def bind_rule(index: int, rule: Rule, catalogue: Catalogue) -> BoundRule:
    """`rule`, the `index`-th of the configuration, for this catalogue.

    Raises:
        ConfigError: `where` is not a valid filter of this catalogue, or it has none of `item_ids`. (Some may be
            missing, as after a retraining.)
    """
    field = f"ranking.rules[{index}] ({rule.name})"
    try:
        if rule.where:
            return BoundRule(index, rule, catalogue.mask(catalogue.validate(rule.where)))
    except InvalidRequest as error:
        raise ConfigError(f"{field}: where: {error}") from None
    positions = catalogue.positions(rule.item_ids)
    if (positions < 0).all():
        raise ConfigError(f"{field}: item_ids: none is in the catalogue, e.g. {rule.item_ids[0]!r}; mend or remove it")
    items_N = np.zeros(len(catalogue), np.bool_)
    items_N[positions[positions >= 0]] = True
    return BoundRule(index, rule, items_N)


def apply_boosts(
    rules: Sequence[BoundRule], matches: Sequence[Bools], model_BK: Floats, order_BK: Array, rule_BK: Ints
) -> Floats:
    """The scores after boost and bury; writes the indices of these rules to `rule_BK`.

    `order_BK` sorts `model_BK` (-inf on padding). The deviations are summed in that order, so neither padding nor the
    order of the candidates changes the rounding.
    """
    shift_BK = np.zeros(model_BK.shape)
    for rule, match_BK in zip(rules, matches, strict=True):
        if rule.config.action != "pin":
            shift_BK[match_BK] += rule.config.amount if rule.config.action == "boost" else -rule.config.amount
            rule_BK[match_BK] = rule.index
    if not shift_BK.any():
        return model_BK
    sorted_BK = take_columns(model_BK, order_BK).astype(np.float64)
    real_BK = np.isfinite(sorted_BK)
    count_B1 = np.maximum(real_BK.sum(axis=1, keepdims=True), 1)
    mean_B1 = np.where(real_BK, sorted_BK, 0.0).cumsum(axis=1)[:, -1:] / count_B1
    square_BK = np.square(np.where(real_BK, sorted_BK - mean_B1, 0.0))
    deviation_B1 = np.sqrt(square_BK.cumsum(axis=1)[:, -1:] / count_B1)
    deviation_B1[deviation_B1 == 0.0] = 1.0  # equal scores: any shift decides
    shifted_BK: Floats = (model_BK + shift_BK * deviation_B1).astype(np.float32)
    return shifted_BK


def apply_pins(
    rules: Sequence[BoundRule], matches: Sequence[Bools], order_BK: Array, count_B: Array, pin_BN: Array, rule_BK: Ints
) -> None:
    """Writes each pinned candidate to its position in `pin_BN` (-1: none) and its rule to `rule_BK`."""
    free_BK = np.ones(order_BK.shape, np.bool_)
    for rule, match_BK in zip(rules, matches, strict=True):
        index = rule.config.position - 1
        if rule.config.action != "pin" or index >= pin_BN.shape[1]:
            continue
        found_BK = take_columns(match_BK & free_BK, order_BK)
        rows = np.flatnonzero(found_BK.any(axis=1) & (index < count_B) & (pin_BN[:, index] == PAD))
        columns = order_BK[rows, found_BK[rows].argmax(axis=1)]
        pin_BN[rows, index] = columns
        free_BK[rows, columns] = False
        rule_BK[rows, columns] = rule.index
