"""The items of a generated shop: clusters of sub-clusters, Zipf popularity, and features with gaps.

Shapes: N items, S sub-clusters, R items that lead on from an item, V dimensions of the vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from deployments.messages import Array, Bools, Ints, Times

YEAR_S = 365 * 86_400.0
PER_SUB, SUBS_PER_CLUSTER, SUBS_PER_DEPARTMENT = 50, 4, 16
"""Mean items of a sub-cluster; sub-clusters of a cluster and of a department."""

ZIPF, ZIPF_SHIFT = 1.0, 5.0
"""An item's share of the visits is about 1 / (its rank + ZIPF_SHIFT)^ZIPF."""

CONSUMABLE, LAUNCHED = 0.15, 0.2
"""Share of the clusters whose items are bought again; share of the items that come into the shop during the year."""

LEADS = 6
COLOURS = ("black", "white", "grey", "blue", "red", "green", "brown", "beige", "pink", "yellow", "orange", "purple")
SHARED_TAGS = ("new", "sale", "gift", "classic", "eco", "handmade", "limited", "kids")
VECTOR = 16


@dataclass(frozen=True)
class Catalogue:
    """What shoppers go by. Items are numbered sub-cluster by sub-cluster; `first_S` [S + 1] are the bounds."""

    sub_N: Ints
    first_S: Ints
    share_N: Times
    """Popularity; sums to 1."""
    launch_s_N: Times
    """Seconds of the year at which the item appears; 0 for most."""
    brand_N: Ints
    level_N: Times
    """Price relative to the sub-cluster, as a logarithm."""
    price_N: Times
    appeal_N: Times
    """Logit by which a view of the item leads to a purchase more often than others."""
    consumable_N: Bools
    interval_s_N: Times
    """Time until a consumable is bought again."""
    leads_NR: Ints
    """Items that shoppers go on to, the most usual first."""
    complement_S: Ints
    """The sub-cluster that buyers look at next."""

    @cached_property
    def total_N(self) -> Times:
        """Popularity of all items before each, and of all [N + 1]."""
        return np.concatenate([[0.0], np.cumsum(self.share_N)])

    @cached_property
    def best_S(self) -> Ints:
        """The most popular item of each sub-cluster; it is there from the first day."""
        return np.lexsort((-self.share_N, self.sub_N))[self.first_S[:-1]].astype(np.int32)

    def draw(self, sub_X: Ints, rng: np.random.Generator) -> Ints:
        """An item of each given sub-cluster, by popularity; of the whole shop where it is -1."""
        first_X = np.where(sub_X < 0, 0, self.first_S[sub_X])
        end_X = np.where(sub_X < 0, len(self.share_N), self.first_S[sub_X + 1])
        low_X, high_X = self.total_N[first_X], self.total_N[end_X]
        found_X = np.searchsorted(self.total_N, low_X + rng.random(len(sub_X)) * (high_X - low_X), side="right") - 1
        return np.clip(found_X, first_X, end_X - 1).astype(np.int32)


def draw_catalogue(n_items: int, rng: np.random.Generator) -> Catalogue:
    """A catalogue of `n_items` items."""
    n_subs = max(SUBS_PER_CLUSTER, n_items // PER_SUB)
    size_S = rng.lognormal(0, 0.5, n_subs)
    others = rng.choice(n_subs, n_items - n_subs, p=size_S / size_S.sum())
    sub_N = np.sort(np.concatenate([np.arange(n_subs), others])).astype(np.int32)  # none is empty
    first_S = np.searchsorted(sub_N, np.arange(n_subs + 1)).astype(np.int32)
    share_N = 1 / (rng.permutation(n_items) + ZIPF_SHIFT) ** ZIPF
    share_N /= share_N.sum()
    launch_s_N = np.where(rng.random(n_items) < LAUNCHED, rng.uniform(0, YEAR_S, n_items), 0.0)
    n_clusters = -(-n_subs // SUBS_PER_CLUSTER)
    cluster_S = np.arange(n_subs) // SUBS_PER_CLUSTER
    brands = max(8, n_items // 25)
    home_N = (cluster_S[sub_N] * 7 + np.minimum(rng.geometric(0.25, n_items), 12)) % brands
    level_N = rng.normal(0, 0.5, n_items)
    price_N = np.exp(rng.normal(3.2, 0.9, n_clusters)[cluster_S[sub_N]] + level_N)
    consumable_N = (rng.random(n_clusters) < CONSUMABLE)[cluster_S[sub_N]]
    sibling_S = np.minimum(cluster_S * SUBS_PER_CLUSTER + rng.integers(0, SUBS_PER_CLUSTER, n_subs), n_subs - 1)
    catalogue = Catalogue(
        sub_N=sub_N,
        first_S=first_S,
        share_N=share_N,
        launch_s_N=launch_s_N,
        brand_N=np.where(rng.random(n_items) < 0.8, home_N, rng.integers(0, brands, n_items)).astype(np.int32),
        level_N=level_N,
        price_N=price_N,
        appeal_N=rng.normal(0, 0.7, n_items),
        consumable_N=consumable_N,
        interval_s_N=86_400 * rng.lognormal(np.log(32), 0.4, n_items),
        leads_NR=np.zeros((n_items, LEADS), np.int32),
        complement_S=rng.integers(0, n_subs, n_subs).astype(np.int32),
    )
    catalogue.launch_s_N[catalogue.best_S] = 0.0  # it stands in for those that are not there yet
    for r in range(LEADS):  # half in the same sub-cluster, then its sibling, at last the complement
        of_S = np.arange(n_subs) if r < LEADS // 2 else sibling_S if r < LEADS - 1 else catalogue.complement_S
        catalogue.leads_NR[:, r] = catalogue.draw(of_S[sub_N].astype(np.int32), rng)
    return catalogue


def items_table(catalogue: Catalogue, rng: np.random.Generator) -> pa.Table:
    """items.parquet: features that tell of cluster, brand and price, each with gaps."""
    n_items = len(catalogue.sub_N)
    cluster_N = catalogue.sub_N // SUBS_PER_CLUSTER
    department_N = catalogue.sub_N // SUBS_PER_DEPARTMENT

    def gaps(share: float) -> Bools:
        return rng.random(n_items) < share

    def text(values: Array, share: float) -> pa.Array:
        return pa.array(values, pa.string(), mask=gaps(share))

    colour_N = np.where(gaps(0.5), cluster_N % len(COLOURS), rng.integers(0, len(COLOURS), n_items))
    centre_SV = rng.normal(size=(int(catalogue.sub_N[-1]) + 1, VECTOR))
    centre_SV += rng.normal(size=(int(cluster_N[-1]) + 1, VECTOR))[np.arange(len(centre_SV)) // SUBS_PER_CLUSTER]
    vector_NV = (centre_SV[catalogue.sub_N] + 1.5 * rng.normal(size=(n_items, VECTOR))).astype(np.float32)
    offsets = pa.array(np.arange(n_items + 1) * VECTOR, pa.int32())
    rating_N = np.clip(3.7 + 0.5 * catalogue.appeal_N + rng.normal(0, 0.3, n_items), 1, 5).round(1)
    return pa.table(
        {
            "item_id": [f"sku-{item:06d}" for item in range(n_items)],
            "title": text(
                np.array([f"Article {item} of line {sub}" for item, sub in enumerate(catalogue.sub_N)]), 0.01
            ),
            "department": text(np.array([f"department {d}" for d in department_N]), 0.02),
            "brand": text(np.array([f"Brand {brand}" for brand in catalogue.brand_N]), 0.05),
            "colour": text(np.array(COLOURS)[colour_N], 0.2),
            "tags": _tags(cluster_N, rng),
            "price": pa.array(catalogue.price_N.round(2), mask=gaps(0.08)),
            "rating": pa.array(rating_N, mask=gaps(0.35)),
            "in_stock": pa.array(~gaps(0.1), mask=gaps(0.04)),
            "embedding": pa.ListArray.from_arrays(offsets, pa.array(vector_NV.ravel()), mask=pa.array(gaps(0.03))),
        }
    )


def _tags(cluster_N: Array, rng: np.random.Generator) -> pa.Array:
    """Up to four words per item: of its cluster's eight, or of those that all share. Some lists are empty or null."""
    n_items = len(cluster_N)
    count_N = rng.binomial(4, 0.5, n_items)
    shared_N4 = rng.random((n_items, 4)) < 0.3
    word_N4 = np.argsort(rng.random((n_items, len(SHARED_TAGS))), axis=1)[:, :4]
    lists = [
        None if gap else [SHARED_TAGS[w] if s else f"tag {c}-{w}" for w, s in zip(words[:k], shared, strict=False)]
        for gap, k, c, words, shared in zip(
            rng.random(n_items) < 0.05, count_N, cluster_N, word_N4.tolist(), shared_N4.tolist(), strict=True
        )
    ]
    return pa.array(lists, pa.list_(pa.string()))
