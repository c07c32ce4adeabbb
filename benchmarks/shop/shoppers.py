"""The users of a generated shop and what they do in a year: sessions of views, then clicks, carts and purchases.

Shapes: U users, P periods of a user's tastes, T tastes, E views, X events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from benchmarks.shop.catalogue import LEADS, SUBS_PER_CLUSTER, YEAR_S, Catalogue
from deployments.messages import Array, Bools, Ints, Times

VIEW, CLICK, CART, PURCHASE = range(4)
TYPES = ("view", "click", "cart", "purchase")

LENGTH_SPREAD, LONGEST = 1.1, 2000
"""Standard deviation of the logarithm of the views per user; most views of one."""

NEW_SESSION = 0.27
"""Chance that a view begins a session."""

PERIODS, TASTES, TASTE_SHARES = 4, 4, (0.45, 0.27, 0.18, 0.1)
EXPLORES = 0.15
"""Share of the sessions that follow no taste of the user."""

RETURNS, REVISITS, LEADS_ON, POPULAR = 0.25, 0.1, 0.3, 0.08
"""Chance that a session begins with an item viewed before; that a later view is one; that it follows from the view
before; that it is what everybody looks at. Else it is of the session's sub-cluster."""

AFTER_PURCHASE = 0.3
"""Chance that the session after a purchase looks for what complements it."""

BUYS_AGAIN = 0.5
"""Chance of each further purchase of a consumable."""


@dataclass(frozen=True)
class Shoppers:
    """Users, with their tastes as sub-clusters."""

    taste_UPT: Ints
    period_s_UP: Times
    """Begin of each period, in seconds of the year; the first is 0."""
    brands_U2: Ints
    """The brands that a user prefers."""
    level_U: Times
    """The price level that a user prefers."""
    eager_U: Times
    """Logit by which a user buys more often than others."""


@dataclass(frozen=True)
class Log:
    """X events: user, item, seconds of the year, code of the type."""

    user_X: Ints
    item_X: Ints
    second_X: Times
    type_X: Ints

    def take(self, rows: Array) -> Log:
        """The events that a mask or an index selects."""
        return Log(self.user_X[rows], self.item_X[rows], self.second_X[rows], self.type_X[rows])


def draw_shoppers(catalogue: Catalogue, n_users: int, rng: np.random.Generator) -> Shoppers:
    """`n_users` users, each with a few tastes of which one at a time changes."""
    interest_S = np.add.reduceat(catalogue.share_N, catalogue.first_S[:-1]) ** 0.7
    n_subs = len(interest_S)
    draws = rng.choice(n_subs, (n_users, PERIODS, TASTES), p=interest_S / interest_S.sum()).astype(np.int32)
    near = rng.integers(0, SUBS_PER_CLUSTER, draws.shape)
    taste_UPT = draws.copy()
    for p in range(1, PERIODS):
        before = taste_UPT[:, p - 1]
        sibling = np.minimum(before // SUBS_PER_CLUSTER * SUBS_PER_CLUSTER + near[:, p], n_subs - 1)
        fresh = np.where(rng.random((n_users, 1)) < 0.6, sibling, draws[:, p])
        changed = rng.integers(0, TASTES, (n_users, 1)) == np.arange(TASTES)
        taste_UPT[:, p] = np.where(changed, fresh, before)
    period_s_UP = np.sort(rng.uniform(0, YEAR_S, (n_users, PERIODS)), axis=1)
    period_s_UP[:, 0] = 0
    liked = catalogue.draw(taste_UPT[:, 0, :2].ravel(), rng)
    return Shoppers(
        taste_UPT=taste_UPT,
        period_s_UP=period_s_UP,
        brands_U2=catalogue.brand_N[liked].reshape(n_users, 2),
        level_U=rng.normal(0, 0.5, n_users),
        eager_U=rng.normal(0, 0.6, n_users),
    )


def shop(catalogue: Catalogue, shoppers: Shoppers, mean_views: float, rng: np.random.Generator) -> Log:
    """A year of events, sorted by time. `mean_views`: views per user, purchases without an earlier look not counted."""
    views, bought_E = _views(catalogue, shoppers, mean_views, rng)
    count = len(bought_E)
    clicked = rng.random(count) < np.where(bought_E, 0.8, 0.34)
    carted = rng.random(count) < np.where(bought_E, 0.8, 0.09)
    delay_E = np.maximum(60.0, rng.lognormal(np.log(2400), 1.8, count))
    click, cart, purchase = views.take(clicked), views.take(carted), views.take(bought_E)
    click.second_X[:] += rng.uniform(2, 40, len(click.second_X))
    cart.second_X[:] += rng.uniform(0.1, 0.9, len(cart.second_X)) * np.minimum(delay_E[carted], 1800)
    purchase.second_X[:] += delay_E[bought_E]
    again = _bought_again(catalogue, purchase, rng)
    looked = again.take(rng.random(len(again.second_X)) < 0.7)
    looked.second_X[:] -= rng.uniform(30, 900, len(looked.second_X))
    into_cart = again.take(rng.random(len(again.second_X)) < 0.8)
    into_cart.second_X[:] -= rng.uniform(5, 29, len(into_cart.second_X))
    parts = [
        (views, VIEW), (click, CLICK), (cart, CART), (purchase, PURCHASE),
        (looked, VIEW), (into_cart, CART), (again, PURCHASE),
    ]  # fmt: skip
    log = Log(
        np.concatenate([part.user_X for part, _ in parts]),
        np.concatenate([part.item_X for part, _ in parts]),
        np.concatenate([part.second_X for part, _ in parts]).round(3),
        np.concatenate([np.full(len(part.user_X), kind, np.int32) for part, kind in parts]),
    )
    log = log.take(log.second_X < YEAR_S)
    return log.take(np.lexsort((log.type_X, log.item_X, log.user_X, log.second_X)))


def _views(catalogue: Catalogue, shoppers: Shoppers, mean_views: float, rng: np.random.Generator) -> tuple[Log, Bools]:
    """All views [E], user by user in order of time, and whether the item is bought after it.

    All users take their next view at once. The users are ordered from the longest history to the shortest, so that
    those who still have a view to come are the first n.
    """
    n_users = len(shoppers.level_U)
    drawn_U = rng.lognormal(0, LENGTH_SPREAD, n_users)
    length_U = np.clip(np.rint(drawn_U * mean_views / drawn_U.mean()), 1, LONGEST).astype(np.int64)
    user_U = np.argsort(-length_U, kind="stable").astype(np.int32)
    length_U = length_U[user_U]
    start_U = np.cumsum(length_U) - length_U
    user_E = np.repeat(user_U, length_U)
    new_E = rng.random(len(user_E)) < NEW_SESSION
    new_E[start_U] = True
    second_E = _times(new_E, length_U, start_U, rng)
    aim_E = _aims(catalogue, shoppers, user_E, second_E, new_E, rng)
    item_E, bought_E = np.zeros(len(user_E), np.int32), np.zeros(len(user_E), np.bool_)
    aim_U, next_aim_U = np.zeros(n_users, np.int32), np.full(n_users, -1, np.int32)
    for step in range(int(length_U[0])):
        n = int(np.searchsorted(-length_U, -step))
        at, user, new, how = start_U[:n] + step, user_U[:n], new_E[start_U[:n] + step], rng.random(n)
        complements = new & (next_aim_U[:n] >= 0) & (rng.random(n) < AFTER_PURCHASE)
        aim_U[:n] = np.where(complements, next_aim_U[:n], aim_E[at])
        next_aim_U[:n] = np.where(new, -1, next_aim_U[:n])
        everybody = how > 1 - POPULAR
        item = _liked(catalogue, shoppers, user, np.where(everybody, -1, aim_U[:n]).astype(np.int32), rng)
        back = np.minimum(1 + rng.exponential(np.where(new, 8.0, 3.0)).astype(np.int64), step)
        earlier = item_E[at - back]
        returns = (back > 0) & (rng.random(n) < np.where(new, RETURNS, REVISITS))
        returns &= catalogue.consumable_N[earlier] | ~bought_E[at - back]
        lead = catalogue.leads_NR[item_E[at - min(step, 1)], np.minimum(rng.geometric(0.4, n), LEADS) - 1]
        item = np.where(~new & (how < LEADS_ON), lead, item)
        late = catalogue.launch_s_N[item] > second_E[at]
        item = np.where(returns, earlier, np.where(late, catalogue.best_S[catalogue.sub_N[item]], item))
        aimed = catalogue.sub_N[item] == aim_U[:n]
        logit = -2.8 + catalogue.appeal_N[item] + shoppers.eager_U[user] + 1.3 * returns + 0.8 * aimed
        logit += 0.7 * _likes(catalogue, shoppers, user, item)
        item_E[at], bought_E[at] = item, rng.random(n) < 1 / (1 + np.exp(-logit))
        next_aim_U[:n] = np.where(bought_E[at], catalogue.complement_S[catalogue.sub_N[item]], next_aim_U[:n])
    return Log(user_E, item_E, second_E, np.full(len(user_E), VIEW, np.int32)), bought_E


def _times(new_E: Bools, length_U: Array, start_U: Array, rng: np.random.Generator) -> Times:
    """Seconds of the year of each view: sessions over the user's time in the shop, mostly by day and in the evening."""
    session_E = np.cumsum(new_E) - 1
    user_S = np.repeat(np.arange(len(length_U)), length_U)[new_E]
    begin_U = np.where(rng.random(len(length_U)) < 0.3, 0.0, rng.uniform(0, 0.9 * YEAR_S, len(length_U)))
    span_U = np.minimum(rng.exponential(0.6 * YEAR_S, len(length_U)) + 86_400, YEAR_S - 86_400 - begin_U)
    gap_S = rng.gamma(0.6, 1.0, len(user_S)) + 1e-6
    passed_S = np.cumsum(gap_S)
    first_S = session_E[start_U]
    last_S = session_E[start_U + length_U - 1]
    passed_S -= (passed_S - gap_S)[first_S][user_S]
    second_S = begin_U[user_S] + span_U[user_S] * passed_S / passed_S[last_S][user_S]
    hour_S = np.where(rng.random(len(user_S)) < 0.5, rng.normal(12, 2.5, len(user_S)), rng.normal(20, 1.5, len(user_S)))
    second_S = np.floor(second_S / 86_400) * 86_400 + 3600 * np.clip(hour_S, 0, 23.5)
    gap_E = np.where(new_E, 0.0, np.minimum(rng.lognormal(np.log(50), 0.8, len(new_E)), 1200))
    within_E = np.cumsum(gap_E)
    second_E = second_S[session_E] + within_E - within_E[new_E][session_E]
    rank_E = np.repeat(np.arange(len(length_U)), length_U)
    ordered: Times = second_E[np.lexsort((second_E, rank_E))]
    return ordered


def _aims(
    catalogue: Catalogue, shoppers: Shoppers, user_E: Ints, second_E: Times, new_E: Bools, rng: np.random.Generator
) -> Ints:
    """The sub-cluster that each view's session is about: a taste of the user at that time, or any."""
    user_S, second_S = user_E[new_E], second_E[new_E]
    period_S = (shoppers.period_s_UP[user_S] <= second_S[:, None]).sum(axis=1) - 1
    taste_S = rng.choice(TASTES, len(user_S), p=TASTE_SHARES)
    any_S = catalogue.sub_N[catalogue.draw(np.full(len(user_S), -1, np.int32), rng)]
    explores_S = rng.random(len(user_S)) < EXPLORES
    aim_S = np.where(explores_S, any_S, shoppers.taste_UPT[user_S, period_S, taste_S]).astype(np.int32)
    aim_E: Ints = aim_S[np.cumsum(new_E) - 1]
    return aim_E


def _likes(catalogue: Catalogue, shoppers: Shoppers, user: Ints, item: Ints) -> Times:
    """How well brand and price of the item suit the user, from about -2 to 1."""
    brand = (catalogue.brand_N[item][:, None] == shoppers.brands_U2[user]).any(axis=1)
    fit: Times = brand - np.abs(catalogue.level_N[item] - shoppers.level_U[user])
    return fit


def _liked(catalogue: Catalogue, shoppers: Shoppers, user: Ints, sub: Ints, rng: np.random.Generator) -> Ints:
    """Of two items of the sub-cluster (-1: of the shop), mostly the one that suits the user better."""
    one, other = catalogue.draw(sub, rng), catalogue.draw(sub, rng)
    lead = _likes(catalogue, shoppers, user, one) - _likes(catalogue, shoppers, user, other)
    return np.where(lead + rng.logistic(0, 0.4, len(lead)) > 0, one, other).astype(np.int32)


def _bought_again(catalogue: Catalogue, purchases: Log, rng: np.random.Generator) -> Log:
    """The later purchases of consumables, at about equal intervals, until the user stops or the year ends."""
    _, first = np.unique(np.stack([purchases.user_X, purchases.item_X]), axis=1, return_index=True)
    first = np.sort(first[catalogue.consumable_N[purchases.item_X[first]]])
    steps = rng.lognormal(0, 0.2, (len(first), 8)) * catalogue.interval_s_N[purchases.item_X[first]][:, None]
    second = purchases.second_X[first][:, None] + np.cumsum(steps, axis=1)
    row, place = np.nonzero(np.cumprod(rng.random(second.shape) < BUYS_AGAIN, axis=1) * (second < YEAR_S))
    return Log(
        purchases.user_X[first[row]],
        purchases.item_X[first[row]],
        second[row, place],
        np.full(len(row), PURCHASE, np.int32),
    )


def users_table(shoppers: Shoppers, rng: np.random.Generator) -> pa.Table:
    """users.parquet: little that helps, with gaps."""
    n_users = len(shoppers.level_U)
    age_U = np.clip(rng.normal(41 + 8 * shoppers.level_U, 12), 16, 90).astype(np.int64)
    country_U = np.array(["DE", "NO", "FR", "PL", "IT", "ES"])[np.minimum(rng.geometric(0.4, n_users) - 1, 5)]
    return pa.table(
        {
            "user_id": [f"customer-{user:06d}" for user in range(n_users)],
            "age": pa.array(age_U, mask=rng.random(n_users) < 0.25),
            "country": pa.array(country_U, pa.string(), mask=rng.random(n_users) < 0.05),
            "newsletter": pa.array(rng.random(n_users) < 0.4, mask=rng.random(n_users) < 0.1),
        }
    )
