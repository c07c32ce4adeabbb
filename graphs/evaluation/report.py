"""Shows an evaluation: a table on the console, a section of benchmarks/RESULTS.md."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from graphs.evaluation.ranking_quality import COLUMNS


def rows(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    """The rows of the table, from top to bottom."""
    funnel = [(name, result[name]) for name in ("funnel", "funnel, no diversity", "funnel, scoring lost")]
    return (
        funnel + list(result.get("baselines", {}).items()) + [(f"source: {n}", m) for n, m in result["sources"].items()]
    )


def best_baseline(result: Mapping[str, Any]) -> tuple[str, float]:
    """The best baseline by NDCG@10, and the ratio of the funnel's NDCG@10 to it."""
    best = max(result["baselines"], key=lambda name: result["baselines"][name]["ndcg@10"])
    return best, result["funnel"]["ndcg@10"] / result["baselines"][best]["ndcg@10"]


def show(result: Mapping[str, Any], console: Console) -> None:
    """Prints the table."""
    table = Table("method", *COLUMNS, title=f"{result['data']}: {result['test_users']} users, temporal split")
    for name, metrics in rows(result):
        table.add_row(name, *(f"{metrics[column]:.4f}" for column in COLUMNS))
    console.print(table)
    candidates = result["candidates"]
    console.print(
        f"candidates, all sources: {candidates['per_request']:.0f} per request, recall {candidates['recall']:.4f}, "
        f"recall@100 {candidates['recall@100']:.4f}"
    )
    if "baselines" in result:
        best, ratio = best_baseline(result)
        console.print(f"NDCG@10 is {ratio:.3f} x that of the best baseline ({best})")


def markdown(result: Mapping[str, Any], model_version: str, command: str) -> str:
    """The table as a section of benchmarks/RESULTS.md."""
    lines = [
        "## Quality of the recommendations",
        "",
        f"`{command}` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, Python {platform.python_version()}, "
        f"torch {version('torch')}, model {model_version}.",
        "",
        f"Data: {result['data']}. Per user with at least 5 successes (rating of 4 or more), the last 20 % of them by "
        f"time are the test set ({result['test_events']} events of {result['test_users']} users). The events before "
        "them are the history, whose items are excluded from every answer. The baselines are tuned on a validation "
        "cut of the training part (benchmarks/tune_baselines.py).",
        "",
        "| method | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, metrics in rows(result):
        lines.append(f"| {name} | " + " | ".join(f"{metrics[column]:.4f}" for column in COLUMNS) + " |")
    candidates = result["candidates"]
    lines += [
        "",
        f"All sources together bring {candidates['per_request']:.0f} candidates per request, with recall "
        f"{candidates['recall']:.4f} (first 100: {candidates['recall@100']:.4f}). `funnel` is the answer as "
        "serve_config.yaml serves it; `scoring lost` is the answer when the fallback replaces scoring.",
    ]
    if "baselines" in result:
        best, ratio = best_baseline(result)
        lines += ["", f"**The funnel's NDCG@10 is {ratio:.3f} times that of the best baseline ({best}).**"]
    return "\n".join(lines) + "\n"
