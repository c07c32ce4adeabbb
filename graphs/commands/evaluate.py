"""`python -m graphs evaluate`: evaluates an artifact, and writes its section of benchmarks/RESULTS.md."""

from __future__ import annotations

from rich.console import Console

from deployments.artifact.reader import Artifact
from graphs.config import RecommenderArgs
from graphs.data.dataset import load_dataset
from graphs.evaluation.evaluate import evaluate
from graphs.evaluation.report import markdown, show
from graphs.evaluation.results_file import write_section


def evaluate_artifact(path: str, data: str, config: RecommenderArgs, out: str, command: str) -> None:
    """Evaluates the artifact at `path` on `data`, prints the table and writes it to `out`. `command`: named there."""
    artifact = Artifact.open(path)
    result = evaluate(artifact, load_dataset(data, config.store), config.stages)
    show(result, Console())
    write_section(out, markdown(result, artifact.model_version, command))
