"""Quality on shop data: per kind the funnel as serve_config.yaml trains and serves it, beside tuned baselines.

All methods answer under the same rules of what may be shown. Baselines are tuned on a validation cut of the training
part of the same data.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.provenance import made_by
from benchmarks.shop.data import write_shop
from benchmarks.tune_baselines import tune
from graphs.config import RecommenderArgs
from graphs.config_file import load, recommender_args
from graphs.console import output_console
from graphs.data.dataset import Interactions, load_dataset
from graphs.data.splits import Split
from graphs.evaluation.baselines import METHODS, BaselineData
from graphs.evaluation.evaluate import hold_users
from graphs.evaluation.report import sentences
from graphs.evaluation.results_file import write_section
from graphs.training import train

MOST_TUNING_USERS = 3000
"""Users whose events the baselines are tuned on, drawn at random. They are fitted on all then."""

GOAL = 1.1
"""NDCG@10 of the funnel as a multiple of the best tuned baseline's."""

COLUMNS = ("ndcg@10", "hit_rate@10", "recall@50", "recall@100", "coverage@10")
CEILING = "candidates in the ideal order"


@dataclass(frozen=True)
class Quality:
    """What was measured on one kind of data. `rows`: method → metrics, in the order of the table."""

    kind: str
    rows: Mapping[str, Mapping[str, float]]
    best_source: str
    best_baseline: str
    settings: Mapping[str, Mapping[str, Any]]
    judged: str
    recall: float
    seconds: float
    model: str

    @property
    def ratio(self) -> float:
        """NDCG@10 of the funnel over the best tuned baseline's."""
        return self.rows["funnel"]["ndcg@10"] / max(self.rows[self.best_baseline]["ndcg@10"], 1e-9)


def shop_quality(
    config: str, out: str, users: int, items: int, kinds: Sequence[str], target: str, command: str
) -> None:
    """Measures each kind, and writes its table into the section of this size; a kind is written once it is done.

    `target`: the event type to predict, where the data have it; empty: every success.
    """
    args = recommender_args(load(config))
    done: list[Quality] = []
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            data = str(write_shop(f"{folder}/{kind}", kind, users, items))
            done.append(measure(kind, data, f"{folder}/artifact", _aimed_at(args, target, kind)))
        output_console().print(f"{kind}: {_verdict(done[-1])}")
        write_section(out, section(done, users, items, target, command))


def measure(kind: str, data: str, out: str, args: RecommenderArgs) -> Quality:
    """Trains on the folder `data`, tunes the baselines, and judges all of them on the test part."""
    began = time.perf_counter()
    artifact = train(data, out, args, refit=False)
    seconds = time.perf_counter() - began
    dataset = load_dataset(data, args.events)
    parts, held_out = hold_users(dataset, Split.of(artifact.manifest.settings))
    metrics = artifact.manifest.metrics
    tuned = tune(_of_some_users(parts.train), len(dataset.items), settings())
    judged = BaselineData(parts, len(dataset.items), held_out.users)
    baselines = {
        f"{name}, tuned": held_out(held_out.top(METHODS[name](judged, **best.setting))) for name, best in tuned.items()
    }
    sources = {f"source: {name}": row for name, row in metrics["sources"].items()}
    best_baseline, best_source = (max(rows, key=lambda name: rows[name]["ndcg@10"]) for rows in (baselines, sources))
    return Quality(
        kind=kind,
        rows={
            CEILING: {"ndcg@10": metrics["candidates"]["ceiling"]},
            "funnel": metrics["funnel"],
            "funnel, scoring lost": metrics["funnel, scoring lost"],
            **baselines,
            **{f"{name}, as on MovieLens": row for name, row in metrics["baselines"].items()},
            **sources,
        },
        best_source=best_source,
        best_baseline=best_baseline,
        settings={name: best.setting for name, best in tuned.items()},
        judged=" ".join(sentences(metrics)),
        recall=metrics["candidates"]["recall"],
        seconds=seconds,
        model=artifact.model_version,
    )


def settings() -> dict[str, Iterator[dict[str, Any]]]:
    """The settings to try per baseline: small grids around what suits implicit feedback."""
    weightings = [("success", 0.2), ("success", 1.0), ("weight", 1)]

    def grid(**choices: Sequence[Any]) -> Iterator[dict[str, Any]]:
        for values in itertools.product(*choices.values()):
            yield dict(zip(choices, values, strict=True))

    return {
        "popularity": grid(weighting=weightings),
        "item_knn": grid(weighting=weightings, neighbours=[50, 200, 1000], k1=[0.5, 1.5, 5.0, 20.0], b=[0.0, 0.5]),
        "ease": grid(weighting=weightings, regularisation=[0.3, 1.0, 3.0, 10.0, 30.0, 100.0]),
        "als": grid(
            weighting=weightings,
            factors=[64, 160],
            regularisation=[1.0, 10.0],
            alpha=[2.0, 10.0, 40.0, 100.0],
            iterations=[15],
        ),
    }


def section(done: Sequence[Quality], users: int, items: int, target: str, command: str) -> str:
    """The section of RESULTS.md: a line per kind, then its table."""
    aim = f", target {target}" if target else ""
    part = f" of {MOST_TUNING_USERS:,} users" if users > MOST_TUNING_USERS else ""
    lines = [
        f"## Quality on shop data: {users:,} users, {items:,} items{aim}",
        "",
        made_by(command),
        "",
        "Generated data (benchmarks/shop/): clustered items of Zipf popularity, log-normal histories, tastes that "
        "drift, repeats. `types`: views, clicks, carts and purchases; `views`: views alone; `untyped`: the events of "
        "`types` without their type; `purchase-after-view`: views and purchases. Trained with serve_config.yaml; every "
        "method answers under its rules of what may be shown. The baselines are tuned on a validation cut of the "
        f"training part{part}. The goal is {GOAL:.2f} times the best of them.",
        "",
        "NDCG@10:",
        "",
        "| kind | ceiling | funnel | best source | best tuned baseline | funnel / baseline | training s |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in done:
        of = {name: row["ndcg@10"] for name, row in each.rows.items()}
        lines.append(
            f"| {each.kind} | {of[CEILING]:.4f} | {of['funnel']:.4f} | {of[each.best_source]:.4f} "
            f"({each.best_source.removeprefix('source: ')}) | {of[each.best_baseline]:.4f} "
            f"({each.best_baseline.removesuffix(', tuned')}) | {each.ratio:.3f} | {each.seconds:.0f} |"
        )
    for each in done:
        lines += ["", f"### {each.kind}", "", each.judged, "", "| method | " + " | ".join(COLUMNS) + " |"]
        lines.append("|---" * (len(COLUMNS) + 1) + "|")
        for name, row in each.rows.items():
            cells = (f"{row[column]:.4f}" if column in row else "" for column in COLUMNS)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        chosen = "; ".join(
            f"{name} " + ", ".join(f"{key} {value}" for key, value in best.items())
            for name, best in each.settings.items()
        )
        lines += ["", f"Recall of the candidates: {each.recall:.4f}. Model {each.model}. Tuned: {chosen}."]
        lines += ["", f"**{_verdict(each)}**"]
    return "\n".join(lines) + "\n"


def _verdict(found: Quality) -> str:
    best = found.best_baseline.removesuffix(", tuned")
    text = f"The funnel's NDCG@10 is {found.ratio:.3f} times that of the best tuned baseline ({best})"
    return text + (f"; the goal is {GOAL:.2f}." if found.ratio < GOAL else ".")


def _aimed_at(args: RecommenderArgs, target: str, kind: str) -> RecommenderArgs:
    """`args` with the target, for kinds that have such events."""
    if not target or kind in ("views", "untyped"):
        return args
    return args.model_copy(update={"events": args.events.model_copy(update={"target": target})})


def _of_some_users(events: Interactions) -> Interactions:
    """The events of MOST_TUNING_USERS users at most, numbered anew."""
    some = np.random.default_rng(0).permutation(np.unique(events.user_E))[:MOST_TUNING_USERS]
    events = events.take(np.isin(events.user_E, some))
    return replace(events, user_E=np.unique(events.user_E, return_inverse=True)[1].astype(np.int32))
