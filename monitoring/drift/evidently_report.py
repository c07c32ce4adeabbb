"""Writes an Evidently report of live rows against the reference. It is a program of its own, so that Evidently's import
(6 s) and memory stay out of the processes that serve requests.

python -m monitoring.drift.evidently_report REFERENCE CURRENT OUT ROWS

REFERENCE and CURRENT are tables of `monitoring.drift.reference`; OUT.html and OUT.json are written.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from monitoring.drift.histograms import Columns
from monitoring.drift.reference import from_table

NUMBERS, LABELS = "wasserstein", "jensenshannon"
"""Evidently's methods, fixed: by default it changes the method, and the meaning of the score, at 1,000 rows."""

THRESHOLD = 0.1
"""Score from which on Evidently marks a column as drifted."""

MIN_VALUES = 2
"""Least values of a column on each side for it to be in a report."""


def frames(reference: Columns, current: Columns, rows: int) -> tuple[Any, Any, dict[str, str], dict[str, str]]:
    """Both sides as data frames of at most `rows` rows, the method per column, and the reason per column left out.

    A number that is constant on one side is compared as a label; one that is constant on both sides is left out.
    """
    import pandas as pd

    rng = np.random.default_rng(0)
    sides: list[dict[str, Any]] = [{}, {}]
    methods, left_out = {}, {}
    picks = [_pick(side, rows, rng) for side in (reference, current)]
    for name in reference.numbers:
        values = [pick.numbers.get(name, np.empty(0, np.float32)) for pick in picks]
        present = [value[np.isfinite(value)] for value in values]
        if min(map(len, present)) < MIN_VALUES:
            left_out[name] = "too few values"
        elif len(np.unique(np.concatenate(present))) == 1:
            left_out[name] = "constant on both sides"
        elif len(np.unique(present[0])) == 1 or len(np.unique(present[1])) == 1:
            methods[name] = LABELS
            for side, value in zip(sides, values, strict=True):
                side[name] = [f"{number:.6g}" for number in value]
        else:
            methods[name] = NUMBERS
            for side, value in zip(sides, values, strict=True):
                side[name] = value.astype(np.float64)
    for name in reference.labels:
        if name not in current.labels or not all(pick.labels[name].names for pick in picks):
            left_out[name] = "no labels"
            continue
        main = [np.array(pick.labels[name].names, object)[pick.labels[name].share_BL.argmax(axis=1)] for pick in picks]
        if len({*main[0], *main[1]}) < 2:
            left_out[name] = "constant on both sides"
            continue
        methods[name] = LABELS
        for side, value in zip(sides, main, strict=True):
            side[name] = value
    return pd.DataFrame(sides[0]), pd.DataFrame(sides[1]), methods, left_out


def _pick(columns: Columns, rows: int, rng: np.random.Generator) -> Columns:
    """At most `rows` rows, drawn with probabilities proportional to their weights."""
    if not len(columns):
        return columns
    uniform = np.ptp(columns.weight_B) == 0
    if uniform and len(columns) <= rows:
        return columns
    chance = columns.weight_B / columns.weight_B.sum()
    return columns.take(rng.choice(len(columns), min(rows, len(columns)), p=chance))


def write(reference: Columns, current: Columns, out: Path, rows: int) -> None:
    """Writes OUT.json and OUT.html."""
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    before, now, methods, left_out = frames(reference, current, rows)
    found: dict[str, Any] = {"left_out": left_out, "rows": [len(before), len(now)], "metrics": []}
    html = "<!doctype html><title>drift</title><p>No signal varies on either side: there is nothing to compare."
    if methods:
        definition = DataDefinition(
            numerical_columns=[name for name, method in methods.items() if method == NUMBERS],
            categorical_columns=[name for name, method in methods.items() if method == LABELS],
        )
        report = Report([ValueDrift(column=c, method=m, threshold=THRESHOLD) for c, m in methods.items()])
        snapshot = report.run(
            Dataset.from_pandas(now, data_definition=definition),
            Dataset.from_pandas(before, data_definition=definition),
        )
        html = snapshot.get_html_str(as_iframe=False)
        found["metrics"] = json.loads(snapshot.json())["metrics"]
    for suffix, text in ((".json", json.dumps(found, indent=1)), (".html", html)):
        partial = out.with_suffix(suffix + ".partial")
        partial.write_text(text, "utf-8")
        partial.replace(out.with_suffix(suffix))


if __name__ == "__main__":
    old, new = (from_table(pq.read_table(path)) for path in sys.argv[1:3])
    write(old, new, Path(sys.argv[3]), int(sys.argv[4]))
