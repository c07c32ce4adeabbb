"""The training flow: events → retrieval → ranker → evaluated artifact.

The models are fitted on the training part of the temporal split and evaluated on the test part. They are not fitted
again on all events: the manifest's metrics are those of the served files, byte for byte. The histories that the
artifact carries for the store are complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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
from graphs.data.splits import temporal_split
from graphs.data.training_checks import check_trainable
from graphs.evaluation import baselines
from graphs.evaluation.evaluate import evaluate
from graphs.evaluation.held_out import hold_out
from graphs.evaluation.offline_funnel import with_plain_scoring
from graphs.evaluation.report import show
from graphs.fit.drift_reference import write_reference
from graphs.fit.packaging import combinations, package
from graphs.fit.ranker import SHAPE, fit_ranker, ranking_data
from graphs.fit.retrieval import write_retrieval
from graphs.fit.transforms import fit_features

EXAMPLE_USERS = 50


def train(data: str, out: str, config: RecommenderArgs, seed: int = 1, columns: str = "") -> Artifact:
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
    for note in [*dataset.notes, *check_trainable(dataset, config)]:
        console.print(note, markup=False, highlight=False)
    baselines.require()
    events, _ = temporal_split(dataset.interactions)
    features = fit_features(dataset)
    for note in features.notes:
        console.print(note, markup=False, soft_wrap=True)
    settings = {"ranker": SHAPE, "example_users": dataset.users[:EXAMPLE_USERS], "seed": seed}
    settings |= {"success_types": list(dataset.success_types), "repeated_types": list(dataset.repeated_types)}
    layout = (TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with (
        Progress(*layout, TimeElapsedColumn(), console=console) as bars,
        ArtifactWriter(out, settings=settings) as writer,
    ):

        def bar(title: str) -> Callable[[float], None]:
            task = bars.add_task(title, total=1.0)
            return lambda share: bars.update(task, completed=share)

        candidates, retrieval, ranker, packaging, evaluation = map(
            bar, ("Candidates to learn from", "Retrieval models", "Ranking model", "Packaging", "Evaluation")
        )
        ranked = ranking_data(dataset, features, events, stages.candidates.config.n_candidates, seed, candidates)
        write_retrieval(writer, dataset, features, events, seed, retrieval)
        model = fit_ranker(ranked, seed, ranker)
        writer.tensors(WEIGHTS, {name: value.numpy() for name, value in model.state_dict().items()})
        writer.table(HISTORIES, stored_histories(dataset))
        write_reference(writer, dataset, config, seed)
        scoring = stages.scoring.config
        held_out = hold_out(writer.preview(), dataset, stages)
        package(writer, held_out, combinations(scoring.backend, scoring.precision), console)
        packaging(1.0)
        preview = writer.preview()
        if not may_serve(preview, scoring.backend, scoring.precision):
            console.print("the evaluation runs eager in fp32 instead")
            stages = with_plain_scoring(stages)
        writer.metrics = evaluate(preview, dataset, stages)
        evaluation(1.0)
    artifact = Artifact.open(out)
    show(artifact.manifest.metrics, console)
    console.print(f"{out}: model {artifact.model_version}, trained in {time.perf_counter() - began:.0f} s")
    return artifact
