"""Business rules of the ranking stage: boost, bury and pin items, in every request or in some contexts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.artifact.catalogue import Catalogue
from deployments.errors import ConfigError, InvalidRequest
from deployments.messages import PAD, Array, Bools, Floats, Ints, RequestBatch, at


class Rule(BaseModel):
    """A business rule on the items that `where` (as a request's `filters`) or `item_ids` names.

    boost, bury: adds or subtracts `amount` standard deviations of the model scores of the request's candidates;
        whatever the model's scale, 1.0 is a strong push and 0.1 a nudge. Several add up.
    pin: puts the best-scored such candidate at `position` (1 is first). It pins one item per rule, only among the
        candidates; it does nothing if the answer is shorter than `position` or an earlier rule has taken it.
    `when`: entries the request's context must have (same type, same value); empty is always.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    action: Literal["boost", "bury", "pin"]
    where: dict[str, Any] = {}
    item_ids: tuple[str, ...] = ()
    when: dict[str, str | float | bool] = {}
    amount: float = Field(0.0, ge=0.0, le=1e6)
    position: int = Field(0, ge=0, le=500)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if bool(self.where) == bool(self.item_ids):
            raise ValueError(f"rule {self.name!r}: give either where or item_ids")
        needed, other = ("position", "amount") if self.action == "pin" else ("amount", "position")
        if not getattr(self, needed) or getattr(self, other):
            raise ValueError(f"rule {self.name!r}: {self.action} takes {needed} > 0 and no {other}")
        return self


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """A rule bound to a catalogue of N items."""

    index: int
    """Its place in the configuration, for `RankedBatch.rule_BN`."""
    config: Rule
    items_N: Bools

    def hits(self, requests: RequestBatch, items_BK: Ints) -> Bools:
        """bool [B, K]: the candidates it is about, in the requests whose context has all that `when` asks for."""
        when = self.config.when
        table = [all(_same(context, name, value) for name, value in when.items()) for context in requests.contexts]
        active_B = np.array([*table, not when])[requests.context_B]  # the last entry serves PAD: no context
        return active_B[:, None] & (items_BK >= 0) & self.items_N[items_BK]


def _same(context: Mapping[str, str | float | bool], name: str, value: str | float | bool) -> bool:
    found = context.get(name)
    return found == value and isinstance(found, bool) == isinstance(value, bool)


def activate(index: int, rule: Rule, catalogue: Catalogue) -> ActiveRule:
    """`rule`, the `index`-th of the configuration, for this catalogue.

    Raises:
        ConfigError: `where` is no valid filter here, or none of `item_ids` exists. (Some may be missing: a retrained
            catalogue may lack them.)
    """
    field = f"ranking.rules[{index}] ({rule.name})"
    try:
        if rule.where:
            return ActiveRule(index, rule, catalogue.mask(catalogue.validate(rule.where)))
    except InvalidRequest as error:
        raise ConfigError(f"{field}: where: {error}") from None
    positions = catalogue.positions(rule.item_ids)
    if (positions < 0).all():
        raise ConfigError(f"{field}: item_ids: none is in the catalogue, e.g. {rule.item_ids[0]!r}; mend or remove it")
    items_N = np.zeros(len(catalogue), np.bool_)
    items_N[positions[positions >= 0]] = True
    return ActiveRule(index, rule, items_N)


def shift(
    rules: Sequence[ActiveRule], hits: Sequence[Bools], model_BK: Floats, order_BK: Array, rule_BK: Ints
) -> Floats:
    """The scores after boost and bury; writes the indices of these rules to `rule_BK`.

    `order_BK` sorts `model_BK` (-inf on padding). The deviations are summed one by one in that order, so that
    neither padding nor the order of the candidates changes how they round.
    """
    pushes_BK = np.zeros(model_BK.shape)
    for rule, hit_BK in zip(rules, hits, strict=True):
        if rule.config.action != "pin":
            pushes_BK[hit_BK] += rule.config.amount if rule.config.action == "boost" else -rule.config.amount
            rule_BK[hit_BK] = rule.index
    if not pushes_BK.any():
        return model_BK
    sorted_BK = at(model_BK, order_BK).astype(np.float64)
    real_BK = np.isfinite(sorted_BK)
    count_B1 = np.maximum(real_BK.sum(axis=1, keepdims=True), 1)
    mean_B1 = np.where(real_BK, sorted_BK, 0.0).cumsum(axis=1)[:, -1:] / count_B1
    square_BK = np.square(np.where(real_BK, sorted_BK - mean_B1, 0.0))
    deviation_B1 = np.sqrt(square_BK.cumsum(axis=1)[:, -1:] / count_B1)
    deviation_B1[deviation_B1 == 0.0] = 1.0  # all equal: any push decides
    shifted_BK: Floats = (model_BK + pushes_BK * deviation_B1).astype(np.float32)
    return shifted_BK


def pin(
    rules: Sequence[ActiveRule], hits: Sequence[Bools], order_BK: Array, wanted_B: Array, pin_BN: Array, rule_BK: Ints
) -> None:
    """Writes each pinned candidate to its place in `pin_BN` (-1: none) and its rule to `rule_BK`."""
    free_BK = np.ones(order_BK.shape, np.bool_)
    for rule, hit_BK in zip(rules, hits, strict=True):
        place = rule.config.position - 1
        if rule.config.action != "pin" or place >= pin_BN.shape[1]:
            continue
        found_BK = at(hit_BK & free_BK, order_BK)
        rows = np.flatnonzero(found_BK.any(axis=1) & (place < wanted_B) & (pin_BN[:, place] == PAD))
        columns = order_BK[rows, found_BK[rows].argmax(axis=1)]
        pin_BN[rows, place] = columns
        free_BK[rows, columns] = False
        rule_BK[rows, columns] = rule.index
