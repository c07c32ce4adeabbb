"""What a data set looks like: counts, span, histories, popularity, types; and what in it is likely wrong.

Shapes: U users, N items, E events, T types.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.messages import Array
from deployments.models.features.history_weights import SUCCESS_THRESHOLD
from deployments.store.event_types import EventsConfig
from graphs.data.dataset import Dataset
from graphs.data.findings import counted, listed, shown
from graphs.data.repeats import judged_users, taken_out
from graphs.data.times import shown_time

FEW_TEST_USERS = 200
_OLD_S = 315_532_800.0
"""1980."""

_BOT_EVENTS, _BOT_TIMES = 500, 20
"""A user with more events than the first, and than the second times the 90th percentile, is called a likely bot."""

_ALIKE = 0.95
"""Rank correlation with the popularity from which a feature is called a likely leak."""


class TypeRow(NamedTuple):
    """One type of events."""

    name: str
    events: int
    weight: str
    successes: float
    """Share of them that are successes."""
    seen: str


class Profile(NamedTuple):
    """The figures of a data set, as text where they are shown as such."""

    figures: dict[str, str]
    types: list[TypeRow]
    features: dict[str, list[tuple[str, str, str]]]
    """Per table: name, type, share that is known."""
    warnings: list[str]


def profile(dataset: Dataset, config: EventsConfig) -> Profile:
    """The profile of `dataset`. `config`: what its types of events mean."""
    events = dataset.interactions
    count_U = np.bincount(events.user_E, minlength=len(dataset.users))
    count_N = np.bincount(events.item_E, minlength=len(dataset.items))
    out_E = taken_out(events.user_E, events.item_E, events.timestamp_E, events.seen_until_E)
    again_E = taken_out(events.user_E, events.item_E, events.timestamp_E, np.full(len(events), np.inf))
    judged = judged_users(events.user_E, events.target_E, out_E)
    targets = max(1, int(events.target_E.sum()))
    first, last = float(events.timestamp_E.min()), float(events.timestamp_E.max())
    half, most = np.quantile(count_U, [0.5, 0.9])
    repeats, lost = (int((events.target_E & each).sum()) / targets for each in (again_E, out_E))
    figures = {
        "events": f"{len(events):,}",
        "users": f"{len(dataset.users):,}",
        "items": f"{len(dataset.items):,}, {int((count_N == 0).sum()):,} of them without events",
        "time": f"{shown_time(first)} to {shown_time(last)} ({(last - first) / 86_400:,.0f} days)",
        "events per user": f"median {half:,.0f}, 90 % have at most {most:,.0f}, the most {count_U.max():,}",
        "popularity": f"the top 1 % of items have {_top(count_N, 0.01):.0%} of the events, the top 10 % "
        f"{_top(count_N, 0.1):.0%}",
        "successes to learn": f"{int(events.target_E.sum()):,} ({events.target_E.mean():.0%} of the events)",
        "repeats": f"{repeats:.0%} of these on items that the user had before; by `seen` {lost:.0%} can't be answered",
        "users to judge by": f"{judged.answerable:,} of {judged.with_successes:,} who have {judged.least} or more",
    }
    tables = {"items": dataset.items} | ({} if dataset.user_table is None else {"users": dataset.user_table})
    warnings = [*_about_events(dataset, count_U, count_N), *_about_features(dataset, count_N)]
    if judged.answerable < FEW_TEST_USERS:
        warnings.append(
            f"only {counted(judged.answerable, 'user')} can be judged by: below {FEW_TEST_USERS} the figures of the "
            "evaluation are rough"
        )
    if lost > 0.5:
        warnings.append(
            f"{lost:.0%} of the successes are on items that `seen` takes out of answers: if people take the same "
            "again, set seen: never for such types under events of the configuration"
        )
    return Profile(figures, _types(dataset, config), {t: _features(each) for t, each in tables.items()}, warnings)


def _top(count_N: Array, share: float) -> float:
    most = np.sort(count_N)[::-1]
    return float(most[: max(1, round(len(most) * share))].sum() / max(1, most.sum()))


def _types(dataset: Dataset, config: EventsConfig) -> list[TypeRow]:
    config = config.with_successes(dataset.success_types).with_repeats(dataset.repeated_types)
    events = dataset.interactions
    rows = []
    for code, name in enumerate(dataset.event_types):
        weight = events.weight_E[events.type_E == code]
        if len(weight):
            low, high = f"{weight.min():.3g}", f"{weight.max():.3g}"
            kind, good = config.of(name), float((weight >= SUCCESS_THRESHOLD).mean())
            rows.append(TypeRow(name, len(weight), low if low == high else f"{low} to {high}", good, kind.seen))
    return sorted(rows, key=lambda row: -row.events)


def _features(table: pa.Table) -> list[tuple[str, str, str]]:
    known = [
        (each.name, each.type, 1 - table.column(each.name).null_count / max(1, len(table))) for each in table.schema
    ]
    return [(name, _kind(kind), f"{share:.0%}") for name, kind, share in known if name not in ("item_id", "user_id")]


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return "vector" if pa.types.is_floating(kind.value_type) else "labels"
    names = {"string": "text", "bool": "yes or no", "int64": "whole number", "double": "number", "date32[day]": "date"}
    return names.get(str(kind), "time")


def _about_events(dataset: Dataset, count_U: Array, count_N: Array) -> Iterator[str]:
    events = dataset.interactions
    ids = dataset.items.column("item_id")
    most = float(np.quantile(count_U, 0.9))
    bots = np.flatnonzero((count_U > _BOT_EVENTS) & (count_U > _BOT_TIMES * most))
    if len(bots):
        bot = bots[np.argmax(count_U[bots])]
        yield (
            f"{counted(len(bots), 'user')} with absurdly many events, such as {shown(dataset.users[bot])} with "
            f"{count_U[bot]:,} (90 % of users have at most {most:,.0f}): bots, or a shared account?"
        )
    item = int(np.argmax(count_N))
    if count_N[item] >= len(events) / 2 and len(events) > 1:
        yield f"item {shown(ids[item].as_py())} has {count_N[item] / len(events):.0%} of all events"
    time_E = events.timestamp_E
    if len(events) > 1 and time_E.min() == time_E.max():
        yield "all events have the same time: their order is unknown, and models of the order learn nothing"
    else:
        last_U, first_U = np.zeros(len(count_U)), np.full(len(count_U), np.inf)
        np.maximum.at(last_U, events.user_E, time_E)
        np.minimum.at(first_U, events.user_E, time_E)
        several_U = count_U > 1
        same = float((last_U == first_U)[several_U].mean()) if several_U.any() else 0.0
        if same > 0.5:
            yield f"{same:.0%} of the users have all their events at one time: their order is unknown"
    old = float((time_E < _OLD_S).mean())
    if old:
        yield f"{old:.1%} of the events are from before 1980: are these times Unix times?"
    if (count_U == 1).mean() > 0.5:
        yield f"{(count_U == 1).mean():.0%} of the users have one event: there is nothing to learn from these"


def _about_features(dataset: Dataset, count_N: Array) -> Iterator[str]:
    tables = [("item", dataset.items, "item_id")]
    if dataset.user_table is not None:
        tables.append(("user", dataset.user_table, "user_id"))
    for owner, table, key in tables:
        unique = []
        for name in table.column_names:
            column = table.column(name)
            text_or_whole = pa.types.is_string(column.type) or pa.types.is_int64(column.type)
            if name in (key, "title") or len(table) < 20 or not text_or_whole:
                continue
            if pc.count_distinct(column).as_py() >= 0.99 * len(table) and not column.null_count:
                unique.append(name)
        if unique:
            yield f"features that differ for every {owner} say no more than its id: {listed(unique)}; leave them out"
    alike = [name for name in dataset.items.column_names if _follows_popularity(dataset.items.column(name), count_N)]
    if alike:
        yield (
            f"features of items that almost equal the popularity in these events: {listed(alike)}; if they were "
            "counted from these events they know what came later"
        )


def _follows_popularity(column: pa.ChunkedArray, count_N: Array) -> bool:
    if not (pa.types.is_int64(column.type) or pa.types.is_float64(column.type)) or len(column) < 20:
        return False
    value_N = column.cast(pa.float64()).fill_null(0).to_numpy()
    if len(np.unique(value_N)) < 5 or len(np.unique(count_N)) < 5:
        return False
    return abs(float(np.corrcoef(_ranks(value_N), _ranks(count_N))[0, 1])) > _ALIKE


def _ranks(value_N: Array) -> Array:
    """Mean ranks: equal values have the same."""
    _, code_N, count_V = np.unique(value_N, return_inverse=True, return_counts=True)
    return (np.cumsum(count_V) - (count_V - 1) / 2)[code_N]
