"""The training flow: events → retrieval → ranker → evaluated artifact.

    events ─ split ─┬─ training part → the twin: retrieval models, ranking model → evaluation
                    └─ all events ───→ the artifact: retrieval models; the twin's ranking model

The figures are those of the twin, which has not seen the test part. What is served is fitted again on all events with
the same settings. The ranking model is not: it learns from held-out candidates, reads features and no ids, and is the
twin's. Without refit there is no twin: the artifact is fitted on the training part, and has the figures of its files.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from deployments.artifact.reader import Artifact
from deployments.artifact.writer import ArtifactWriter
from deployments.assembly import HISTORIES
from deployments.models.backends.parity_gate import may_serve
from deployments.stages.scoring import WEIGHTS
from graphs.config import RecommenderArgs
from graphs.console import output_console
from graphs.data.dataset import load_dataset
from graphs.data.histories import stored_histories
from graphs.data.splits import Split, SplitKind
from graphs.data.training_checks import check_trainable
from graphs.evaluation import baselines
from graphs.evaluation.evaluate import evaluate_new, hold_users
from graphs.evaluation.held_out import hold_out
from graphs.evaluation.offline_funnel import with_plain_scoring
from graphs.evaluation.report import show
from graphs.evaluation.verdict import judge
from graphs.fit.drift_reference import write_reference
from graphs.fit.packaging import combinations, package
from graphs.fit.ranker import SHAPE, fit_ranker, ranking_data
from graphs.fit.retrieval import write_retrieval
from graphs.fit.transforms import fit_features

EXAMPLE_USERS = 50

TWIN = (
    "the unrefitted twin of the served model: the same settings, fitted on the training part alone. The served model's "
    "retrieval models and statistics are fitted on all events; its ranking model is the twin's"
)
"""What a refitted model's figures are of."""


def train(
    data: str,
    out: str,
    config: RecommenderArgs,
    seed: int = 1,
    columns: str = "",
    split: SplitKind = "user",
    refit: bool = True,
) -> Artifact:
    """Loads `data`, fits every model, evaluates the funnel as `config` serves it, and writes the artifact to `out`.
    `columns`: your names of columns, as `--columns` takes them.

    Raises:
        DataError: the data can't be used; names file, column and remedy.
        ArtifactError: `out` exists and is no artifact.
    """
    began = time.perf_counter()
    torch.use_deterministic_algorithms(True)  # else the order of gradient sums depends on the threads
    console = output_console()
    stages = config.stages
    dataset = load_dataset(data, config.events, columns)
    chosen = Split.choose(split, dataset.interactions)
    for note in [*dataset.notes, *check_trainable(dataset, config, chosen)]:
        console.print(note, markup=False, highlight=False)
    hold_users(dataset, chosen)
    baselines.require()
    events, all_events = chosen(dataset.interactions).train, dataset.interactions
    features = fit_features(dataset)
    for note in features.notes:
        console.print(note, markup=False, soft_wrap=True)
    settings: dict[str, Any] = {
        "ranker": SHAPE,
        "example_users": dataset.users[:EXAMPLE_USERS],
        "seed": seed,
        "success_types": list(dataset.success_types),
        "repeated_types": list(dataset.repeated_types),
        "split": chosen.settings(),
        "refit": refit,
        "fitted_until": float((all_events if refit else events).timestamp_E.max()),
    }
    titles = ["Candidates to learn from", "Ranking model", "Retrieval models", "Refit", "Packaging", "Evaluation"]
    layout = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with (
        Progress(*layout, TimeElapsedColumn(), console=console) as bars,
        tempfile.TemporaryDirectory() as scratch,
        ArtifactWriter(out, settings=settings) as served,
        ArtifactWriter(Path(scratch) / "twin", settings=settings) as twin,
    ):
        progress = {title: _bar(bars, title) for title in titles if refit or title != "Refit"}
        n_candidates = stages.candidates.config.n_candidates
        ranked = ranking_data(dataset, features, events, n_candidates, seed, progress["Candidates to learn from"])
        model = fit_ranker(ranked, seed, progress["Ranking model"])
        judged = twin if refit else served
        write_retrieval(judged, dataset, features, events, seed, progress["Retrieval models"])
        if refit:
            write_retrieval(served, dataset, features, all_events, seed, progress["Refit"])
        for writer in {served, judged}:
            writer.tensors(WEIGHTS, {name: value.numpy() for name, value in model.state_dict().items()})
        served.table(HISTORIES, stored_histories(dataset))
        scoring = stages.scoring.config
        held_out = hold_out(served.preview(), dataset, stages)
        package(served, held_out, combinations(scoring.backend, scoring.precision), console)
        progress["Packaging"](1.0)
        if not may_serve(served.preview(), scoring.backend, scoring.precision):
            console.print("the evaluation runs eager in fp32 instead")
            stages = with_plain_scoring(stages)
        if refit:
            _share_scoring(served, twin)
        figures = evaluate_new(judged, served, dataset, stages, console.print)
        served.metrics = figures | {"figures_of": TWIN if refit else ""}
        write_reference(served, dataset, config, seed)
        progress["Evaluation"](1.0)
    artifact = Artifact.open(out)
    show(artifact.manifest.metrics, console)
    console.print(f"{out}: model {artifact.model_version}, trained in {time.perf_counter() - began:.0f} s")
    console.print(f"{judge(artifact.manifest.metrics)}", highlight=False)
    return artifact


def _bar(bars: Progress, title: str) -> Callable[[float], None]:
    task = bars.add_task(title, total=1.0)
    return lambda share: bars.update(task, completed=share)


def _share_scoring(served: ArtifactWriter, twin: ArtifactWriter) -> None:
    """Gives the twin the compiled code of the served model, and its gates: both have one ranking model."""
    for name in served.preview().manifest.derived:
        shutil.copyfile(served.file(name), twin.derived(name))
    twin.gates = served.gates
