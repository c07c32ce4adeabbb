"""The ranking stage: orders the scored candidates and cuts each row to the requested number.

Score order, then business rules, then a cap per category, then diversity. Each step works on the whole batch.

The first step sorts candidates by model score, ties by item position. So neither their input order nor their padding
changes the result in any bit.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.artifact.catalogue import Catalogue
from deployments.artifact.reader import Artifact
from deployments.errors import ConfigError, VersionMismatch
from deployments.messages import (
    PAD,
    Array,
    Bools,
    CandidateBatch,
    Floats,
    Ints,
    RankedBatch,
    RequestBatch,
    ScoreBatch,
    pad_columns,
    same_model,
    take_columns,
)
from deployments.stages.business_rules import BoundRule, Rule, apply_boosts, apply_pins, bind_rule

_WORST, _BEST = -1e30, 1e30  # replace a model's NaN or infinity, so that one bad score does not affect the other items
AUTO_DIVERSITY = 0.1
"""`diversity: auto`, unless training found that it costs NDCG (`diversity` in the artifact's settings)."""
_PINNED, _FREE, _OVER_CAP, _PADDING = range(4)  # tiers: candidates are sorted by tier first


class RankerConfig(BaseModel):
    """How the ranking stage orders candidates."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    diversity: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["auto"] = "auto"
    """Weight of diversity (MMR) against the score. 0: score order; 1: the scores within the pool are ignored; auto: 0.1
    if that cost no NDCG@10 in the evaluation of training, else 0."""
    diversity_pool: int = Field(100, ge=1, le=500)
    """Number of the best candidates that diversity reorders; the others follow in score order."""
    category: str = ""
    """Categorical or multi attribute (its first value) of the cap; not read while `category_cap` is 0."""
    category_cap: int = Field(0, ge=0)
    """Most items of one category in an answer, 0: off. Items without category are not capped; pinned items count."""
    rules: tuple[Rule, ...] = ()
    """Business rules, in order."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.category_cap and not self.category:
            raise ValueError("category_cap needs category, the attribute that it caps")
        return self


class Ranker:
    """Orders candidates; see the module and `RankerConfig`.

    Reads from the artifact `items.safetensors` (`item_vectors_ND`) if diversity is on, and the catalogue if rules or
    a cap are set.

    Raises:
        ConfigError: the catalogue does not have the category of the cap, or the attributes or items of a rule.
    """

    def __init__(self, artifact: Artifact, config: RankerConfig) -> None:
        self.model_version = artifact.model_version
        self._config = config
        self._rules: list[BoundRule] = []
        measured = artifact.manifest.settings.get("diversity", AUTO_DIVERSITY)
        self._diversity = float(measured if config.diversity == "auto" else config.diversity)
        if self._diversity:
            self._vectors_ND: Array = artifact.tensors("items.safetensors")["item_vectors_ND"][:, :-1]  # less the bias
            norm_N = np.sqrt(np.einsum("nd,nd->n", self._vectors_ND, self._vectors_ND, dtype=np.float32))
            self._scale_N = np.divide(1.0, norm_N, out=np.zeros_like(norm_N), where=norm_N > 0)
        if config.category_cap or config.rules:
            catalogue = Catalogue.load(artifact)
            self._rules = [bind_rule(i, rule, catalogue) for i, rule in enumerate(config.rules)]
            if config.category_cap:
                check_category(config.category, catalogue)
                self._category_N = catalogue.category_codes(config.category)

    def __call__(self, requests: RequestBatch, candidates: CandidateBatch, scores: ScoreBatch) -> RankedBatch:
        """The N = max(n_B) best of each request's candidates; row i has min(n_B[i], number of candidates) items.

        A row with `given_BG` gets all of these instead of n_B. A NaN score is the worst. Items are in final order,
        after diversity, so `score_BN` (the model score after rules) need not decrease. `diversity_penalty_BN` is in
        units of the score scaled to 0..1 over the pool; `rule_BN` is the rule that pinned the item, else the last that
        boosted or buried it.

        Raises:
            VersionMismatch: the messages or this stage were made with different models.
        """
        version = same_model(requests, candidates, scores)
        if version != self.model_version:
            raise VersionMismatch(sorted([version, self.model_version]))
        pool = self._config.diversity_pool
        mask_BK = pad_columns(candidates.mask_BK, pool)  # at least one column; a fixed width gives the same rounding
        items_BK = np.where(mask_BK, pad_columns(candidates.item_ids_BK, pool), PAD)
        finite_BK = np.fmin(np.fmax(pad_columns(scores.scores_BK, pool), _WORST), _BEST)  # fmax: NaN is _WORST
        model_BK = np.where(mask_BK, finite_BK, -np.inf).astype(np.float32, copy=False)
        given_B = (requests.given_BG >= 0).sum(axis=1)
        requested_B = np.where(given_B > 0, given_B, requests.n_B)
        count_B = np.minimum(requested_B, mask_BK.sum(axis=1))
        width = int(requested_B.max(initial=0))

        order_BK = np.lexsort((items_BK, -model_BK), axis=1)
        rank_BK = np.empty_like(order_BK)
        rank_BK[np.arange(len(order_BK))[:, None], order_BK] = np.arange(order_BK.shape[1])
        tier_BK = np.where(mask_BK, _FREE, _PADDING).astype(np.int8)
        rule_BK = np.full(items_BK.shape, PAD, np.int32)
        pin_BN = np.full((len(requests), width), PAD)
        penalty_BK = np.zeros_like(model_BK)
        score_BK = model_BK

        if self._rules:
            matches = [rule.matches(requests, items_BK) for rule in self._rules]
            score_BK = apply_boosts(self._rules, matches, model_BK, order_BK, rule_BK)
            order_BK = np.lexsort((items_BK, -score_BK), axis=1)
            apply_pins(self._rules, matches, order_BK, count_B, pin_BN, rule_BK)
            row_BN, position_BN = np.nonzero(pin_BN >= 0)
            tier_BK[row_BN, pin_BN[row_BN, position_BN]] = _PINNED
            order_BK = _sort_by_tier(order_BK, tier_BK)
        if self._config.category_cap:
            category_BK = np.where(mask_BK, self._category_N[items_BK], PAD)
            over_BK = _over_cap(category_BK, order_BK, self._config.category_cap)
            tier_BK[over_BK & (tier_BK == _FREE)] = _OVER_CAP
            order_BK = _sort_by_tier(order_BK, tier_BK)
        if self._diversity:
            order_BK = self._diversify(order_BK, tier_BK, score_BK, items_BK, penalty_BK, min(width, pool))

        choice_BN = _place_pins(order_BK, pin_BN, count_B)
        missing_BN, index_BN = choice_BN < 0, np.maximum(choice_BN, 0)

        def chosen(column_BK: Array, fill: int) -> Array:
            column_BN = take_columns(column_BK, index_BN)
            column_BN[missing_BN] = fill
            return column_BN

        return RankedBatch(
            model_version=version,
            choice_BN=choice_BN.astype(np.int32),
            score_BN=chosen(score_BK, 0),
            score_rank_BN=chosen(rank_BK, PAD).astype(np.int32),
            diversity_penalty_BN=chosen(penalty_BK, 0),
            rule_BN=chosen(rule_BK, PAD),
        )

    def _diversify(
        self, order_BK: Array, tier_BK: Array, score_BK: Floats, items_BK: Ints, penalty_BK: Floats, steps: int
    ) -> Array:
        """Reorders the free candidates of the pool, the first P of `order_BK`; fills `penalty_BK`.

        Maximal marginal relevance (Carbonell & Goldstein 1998): each step takes the largest
        (1 - strength) * score - strength * max(0, highest cosine to an item chosen before), with scores scaled to
        0..1 over the pool. Pinned items count as chosen from the start. Equal values keep the score order.
        """
        strength, size = self._diversity, self._config.diversity_pool
        pool_BP = order_BK[:, :size]
        items_BP, tier_BP, score_BP = (
            take_columns(items_BK, pool_BP),
            take_columns(tier_BK, pool_BP),
            take_columns(score_BK, pool_BP),
        )
        vectors_BPD = self._vectors_ND[items_BP] * self._scale_N[items_BP][:, :, None]
        pinned_BP, free_BP = tier_BP == _PINNED, tier_BP == _FREE
        closest_BP = np.zeros_like(score_BP)
        if pinned_BP.any():
            cosine_BPP = vectors_BPD @ vectors_BPD.transpose(0, 2, 1)
            closest_BP = cosine_BPP.max(axis=2, where=pinned_BP[:, None, :], initial=0.0)
        low_B1 = score_BP.min(axis=1, where=free_BP, initial=np.inf, keepdims=True)
        span_B1 = score_BP.max(axis=1, where=free_BP, initial=-np.inf, keepdims=True) - low_B1
        scaled_BP = np.divide(score_BP - low_B1, span_B1, out=np.zeros_like(score_BP), where=free_BP & (span_B1 > 0))
        relevance_BP = np.where(free_BP, (1.0 - strength) * scaled_BP, -np.inf)

        row_B = np.arange(len(pool_BP))
        pick_BN = np.empty((len(pool_BP), steps), np.intp)
        closest_BN = np.empty(pick_BN.shape, np.float32)
        for step in range(steps):
            pick_BN[:, step] = pick_B = (relevance_BP - strength * closest_BP).argmax(axis=1)
            closest_BN[:, step] = closest_BP[row_B, pick_B]
            relevance_BP[row_B, pick_B] = -np.inf
            cosine_BP = (vectors_BPD @ vectors_BPD[row_B, pick_B][:, :, None])[:, :, 0]
            np.maximum(closest_BP, cosine_BP, out=closest_BP)
        row_L, step_L = np.nonzero(np.arange(steps) < free_BP.sum(axis=1, keepdims=True))  # an item was left
        pick_L = pick_BN[row_L, step_L]
        penalty_BK[row_L, pool_BP[row_L, pick_L]] = strength * closest_BN[row_L, step_L]
        position_BP = np.where(pinned_BP, -1, steps + np.arange(size))  # picked items get their step, the others follow
        position_BP[row_L, pick_L] = step_L
        reordered_BP = take_columns(pool_BP, position_BP.argsort(axis=1, kind="stable"))
        return np.concatenate([reordered_BP, order_BK[:, size:]], axis=1)


def _sort_by_tier(order_BK: Array, tier_BK: Array) -> Array:
    """`order_BK` by tier first, keeping the order within each."""
    return take_columns(order_BK, take_columns(tier_BK, order_BK).argsort(axis=1, kind="stable"))


def check_category(name: str, catalogue: Catalogue) -> None:
    """Raises ConfigError if no categorical or multi attribute is called `name`."""
    usable = [attribute for attribute, kind in catalogue.attributes.items() if kind != "numeric"]
    if name not in usable:
        raise ConfigError(
            f"ranking.category: {name!r} is none of the catalogue's: {', '.join(usable) or 'none'}; mend it, or set "
            "category_cap to 0"
        )


def _over_cap(category_BK: Ints, order_BK: Array, cap: int) -> Bools:
    """True where at least `cap` candidates of the same category come earlier in `order_BK`."""
    ordered_BK = take_columns(category_BK, order_BK)
    grouped_BK = ordered_BK.argsort(axis=1, kind="stable")
    group_BK = take_columns(ordered_BK, grouped_BK)
    index_K = np.arange(group_BK.shape[1])
    opens_BK = np.diff(group_BK, axis=1, prepend=-2) != 0  # -2: no category's code
    nth_BK = index_K - np.maximum.accumulate(np.where(opens_BK, index_K, 0), axis=1)
    over_BK = np.empty(category_BK.shape, np.bool_)
    over_BK[np.arange(len(over_BK))[:, None], take_columns(order_BK, grouped_BK)] = (nth_BK >= cap) & (group_BK >= 0)
    return over_BK


def _place_pins(order_BK: Array, pin_BN: Array, count_B: Array) -> Array:
    """The pinned items at their positions, and the others of `order_BK` (which starts with the pins) around them."""
    free_BN = pin_BN == PAD
    pins_B1 = (~free_BN).sum(axis=1, keepdims=True)
    index_BN = np.clip(pins_B1 + free_BN.cumsum(axis=1) - 1, 0, order_BK.shape[1] - 1)
    choice_BN = np.where(free_BN, take_columns(order_BK, index_BN), pin_BN)
    return np.where(np.arange(pin_BN.shape[1]) < count_B[:, None], choice_BN, PAD)
