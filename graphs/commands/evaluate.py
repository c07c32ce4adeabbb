"""`rayfunnel evaluate`: evaluates an artifact, and writes its section of benchmarks/RESULTS.md.

A refitted model has seen the test part of its training data, so it can be judged on newer events alone. Without any,
the figures are those that training took of its twin.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich.console import Console

from deployments.artifact.columns import FILE
from deployments.artifact.reader import Artifact
from graphs.config import RecommenderArgs
from graphs.console import output_console
from graphs.data.dataset import Dataset, load_dataset
from graphs.data.splits import Split
from graphs.evaluation.evaluate import evaluate
from graphs.evaluation.report import markdown, show
from graphs.evaluation.results_file import write_section
from graphs.evaluation.verdict import Verdict, judge


def evaluate_artifact(
    path: str, data: str, config: RecommenderArgs, out: str, command: str, columns: str = ""
) -> Verdict | None:
    """Evaluates the artifact at `path` on `data`, prints the table and writes it to `out`. `command`: named there.

    Raises:
        DataError: the data can't be used, or nobody can be judged.
    """
    artifact, console = Artifact.open(path), output_console()
    settings = artifact.manifest.settings  # what training took for a success counts here, too
    events = config.events.with_successes(settings.get("success_types", ()))
    events = events.with_repeats(settings.get("repeated_types", ()))
    dataset = _of_its_catalogue(load_dataset(data, events, columns), artifact, console)
    result = _figures(artifact, dataset, config, console)
    show(result, console)
    write_section(out, markdown(result, artifact.model_version, command))
    if verdict := judge(result):
        console.print(f"{verdict}", highlight=False)
    return verdict


def _of_its_catalogue(dataset: Dataset, artifact: Artifact, console: Console) -> Dataset:
    """`dataset` over the items of the artifact, without the events of other items."""
    items, events = artifact.table(FILE), dataset.interactions
    ids, known_ids = (table.column("item_id").combine_chunks() for table in (dataset.items, items))
    if ids.equals(known_ids):
        return dataset
    item_E = pc.index_in(ids, known_ids).fill_null(-1).to_numpy()[events.item_E].astype(np.int32)
    if unknown := int((item_E < 0).sum()):
        console.print(f"{unknown:,} of {len(events):,} events are on items that the model does not know: left out")
    kept = replace(events, item_E=item_E).take(item_E >= 0)
    order = np.lexsort((kept.item_E, kept.timestamp_E, kept.user_E))
    return replace(dataset, interactions=kept.take(order), items=items, event_ids=None, own_weight_E=None)


def _figures(artifact: Artifact, dataset: Dataset, config: RecommenderArgs, console: Console) -> dict[str, Any]:
    settings = artifact.manifest.settings
    if not settings.get("refit"):
        return evaluate(artifact, dataset, config.stages)
    events, until = dataset.interactions, settings["fitted_until"]
    newer_E = events.target_E & (events.timestamp_E > until)
    if newer_E.any():
        first_newer = float(events.timestamp_E[newer_E].min())
        return evaluate(artifact, dataset, config.stages, split=Split("time", 1, first_newer))
    console.print(
        f"the model was fitted on all events until {np.datetime64(int(until), 's')} UTC, and {dataset.name} has no "
        "later target: these are the figures of its training"
    )
    return artifact.manifest.metrics
