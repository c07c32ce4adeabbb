"""`python -m graphs evaluate`: evaluates an artifact, and writes its section of benchmarks/RESULTS.md."""

from __future__ import annotations

from deployments.artifact.reader import Artifact
from graphs.config import RecommenderArgs
from graphs.console import output_console
from graphs.data.dataset import load_dataset
from graphs.evaluation.evaluate import evaluate
from graphs.evaluation.report import markdown, show
from graphs.evaluation.results_file import write_section


def evaluate_artifact(path: str, data: str, config: RecommenderArgs, out: str, command: str, columns: str = "") -> None:
    """Evaluates the artifact at `path` on `data`, prints the table and writes it to `out`. `command`: named there."""
    artifact = Artifact.open(path)
    result = evaluate(artifact, load_dataset(data, config.events, columns), config.stages)
    show(result, output_console())
    write_section(out, markdown(result, artifact.model_version, command))
