"""The commands that make and measure artifacts: train, evaluate, package, reference."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from graphs.command_line.options import (
    DEFAULT_ARTIFACT,
    DEFAULT_CONFIG,
    Columns,
    Data,
    EvaluationConfig,
    Seed,
    ServedArtifact,
    example,
)

if TYPE_CHECKING:
    from graphs.evaluation.verdict import Verdict

app = typer.Typer()
PANEL = "Models"

A_BASELINE_WINS = 3
"""Exit status of `train` and `evaluate` whose artifact is complete, but worse than a baseline."""


@app.command(rich_help_panel=PANEL, epilog=example("train --data my_data --out artifacts/mine"))
def train(
    data: Data = "movielens",
    out: Annotated[str, typer.Option(help="The folder to write the artifact to.")] = DEFAULT_ARTIFACT,
    seed: Seed = 1,
    columns: Columns = "",
    split: Annotated[
        Literal["user", "time"],
        typer.Option(help="What the evaluation predicts: each user's last events, or all events after one time."),
    ] = "user",
    refit: Annotated[
        bool, typer.Option(help="Fit the served models again on all events; the figures are those of before.")
    ] = True,
    config: EvaluationConfig = DEFAULT_CONFIG,
) -> None:
    """Train every model on your events, evaluate the funnel, and write an artifact. Exit status 3: a baseline wins."""
    from graphs.config_file import load, recommender_args
    from graphs.evaluation.verdict import judge
    from graphs.training import train

    artifact = train(data, out, recommender_args(load(config)), seed, columns, split, refit)
    _exit(judge(artifact.manifest.metrics))


@app.command(
    rich_help_panel=PANEL, epilog=example("evaluate --artifact artifacts/mine --data my_data --out RESULTS.md")
)
def evaluate(
    artifact: ServedArtifact = DEFAULT_ARTIFACT,
    data: Data = "movielens",
    out: Annotated[str, typer.Option(help="The Markdown file whose section is replaced.")] = "benchmarks/RESULTS.md",
    columns: Columns = "",
    config: EvaluationConfig = DEFAULT_CONFIG,
) -> None:
    """Evaluate an artifact beside the baselines, and write the table as Markdown. Exit status 3: a baseline wins."""
    from graphs.commands.evaluate import evaluate_artifact
    from graphs.config_file import load, recommender_args

    command = f"python -m graphs {shlex.join(sys.argv[1:])}"
    _exit(evaluate_artifact(artifact, data, recommender_args(load(config)), out, command, columns))


def _exit(verdict: Verdict | None) -> None:
    """Ends the command; with its own status if a baseline beats the funnel."""
    if verdict and verdict.beaten:
        raise typer.Exit(A_BASELINE_WINS)


@app.command(rich_help_panel=PANEL, epilog=example("package artifacts/mine --backend compiled --precision fp16"))
def package(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="The folder of the artifact to add to.")],
    backend: Annotated[
        Literal["eager", "compiled", "tensorrt"] | None,
        typer.Option(help="The backend of scoring.", show_default="that of the config"),
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16", "int8"] | None,
        typer.Option(help="The precision of scoring.", show_default="that of the config"),
    ] = None,
    data: Data = "movielens",
    columns: Columns = "",
    config: Annotated[str, typer.Option(help="The config file with the stages that make the candidates.")] = (
        DEFAULT_CONFIG
    ),
) -> None:
    """Add another way of scoring to an artifact: build it, compare it with the model, record the result."""
    from graphs.commands.package import repackage
    from graphs.config_file import load, recommender_args

    args = recommender_args(load(config))
    asked = args.stages.scoring.config
    made = repackage(artifact, data, args, backend or asked.backend, precision or asked.precision, columns)
    print(f"{artifact}: model {made.model_version}, gates: {', '.join(made.manifest.gates) or 'none'}")


@app.command(
    rich_help_panel=PANEL,
    epilog=example("reference --live data/drift/MODEL_VERSION/live.parquet --out artifacts/mine-live"),
)
def reference(
    live: Annotated[str, typer.Option(help="The live.parquet in the folder of the drift reports.")],
    out: Annotated[str, typer.Option(help="The folder to write the new artifact to.")],
    artifact: ServedArtifact = DEFAULT_ARTIFACT,
) -> None:
    """Copy an artifact, with live traffic as its drift reference."""
    from graphs.commands.drift_reference import from_live

    from_live(artifact, live, out)
