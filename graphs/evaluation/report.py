"""Shows an evaluation: a table on the console, a section of benchmarks/RESULTS.md."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from graphs.data.repeats import ENOUGH_USERS
from graphs.evaluation.ranking_quality import COLUMNS
from graphs.evaluation.verdict import judge


def rows(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    """The rows of the table, from top to bottom."""
    funnel = [(name, result[name]) for name in ("funnel", "funnel, no diversity", "funnel, scoring lost")]
    return (
        funnel + list(result.get("baselines", {}).items()) + [(f"source: {n}", m) for n, m in result["sources"].items()]
    )


def sentences(result: Mapping[str, Any]) -> Iterator[str]:
    """Whose figures they are, who is judged, how good any order of the candidates could be, what is missing."""
    judged, candidates = result["judged"], result["candidates"]
    if figures_of := result.get("figures_of"):
        yield f"These are the figures of {figures_of}."
    yield (
        f"Judged: {result['test_users']:,} users ({judged['share_of_users']:.1%} of all) by {result['test_events']:,} "
        f"events: {result['split']}. {judged['answerable']:.1%} of their items may be answered at all."
    )
    if judged["drawn_from"] > result["test_users"]:
        yield f"They are drawn from {judged['drawn_from']:,}."
    if judged["nothing_left"]:
        yield (
            f"{judged['nothing_left']:,} test users are not judged: what they had before takes all their items out of "
            "answers (`seen` of events.types)."
        )
    if judged["cold_users"]:
        yield (
            f"{judged['cold_users']:,} test users are not judged: nothing is known of them before, so they get popular "
            "items."
        )
    yield (
        f"All sources together bring {candidates['per_request']:.0f} candidates per request, with recall "
        f"{candidates['recall']:.4f} (first 100: {candidates['recall@100']:.4f}). The ceiling: in the ideal order "
        f"their NDCG@10 is {candidates['ceiling']:.4f}."
    )
    for name, reason in result.get("left_out", {}).items():
        yield f"The baseline {name} is left out: {reason}."
    if result["test_users"] < ENOUGH_USERS:
        yield f"WARNING: fewer than {ENOUGH_USERS} users are judged, so chance moves these figures a lot."


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints the table, and what it rests on."""
    table = Table("method", *COLUMNS, title=f"{result['data']}: {result['test_users']} users")
    for name, metrics in rows(result):
        table.add_row(name, *(f"{metrics[column]:.4f}" for column in COLUMNS))
    console.print(table)
    for sentence in sentences(result):
        console.print(sentence, highlight=False)


def markdown(result: Mapping[str, Any], model_version: str, command: str) -> str:
    """The table as a section of benchmarks/RESULTS.md."""
    who, *notes = sentences(result)
    lines = [
        "## Quality of the recommendations",
        "",
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, Python {platform.python_version()}, "
        f"torch {version('torch')}, model {model_version}, scoring {result['scoring']}.",
        "",
        f"Data: {result['data']}. {who} The events before a user's first test event are the history; items that are "
        "seen by it are in no answer, of the baselines neither. The baselines are tuned on a validation cut of "
        "MovieLens' training part (benchmarks/tune_baselines.py).",
        "",
        "| method | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, metrics in rows(result):
        lines.append(f"| {name} | " + " | ".join(f"{metrics[column]:.4f}" for column in COLUMNS) + " |")
    lines += [
        "",
        " ".join(notes) + " `funnel` is the answer as serve_config.yaml serves it; `scoring lost` is the answer when "
        "the fallback replaces scoring.",
    ]
    if verdict := judge(result):
        lines += ["", f"**{verdict}.**"]
    return "\n".join(lines) + "\n"
