"""Options that several commands share, and the line with a command's example."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_CONFIG = "serve_config.yaml"
DEFAULT_ARTIFACT = "artifacts/movielens"

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="The config file of the application.")]
EvaluationConfig = Annotated[str, typer.Option("--config", help="The config file with the stages of the evaluation.")]
Data = Annotated[
    str, typer.Option(help="The training data: movielens, a folder with interactions, a file of them, or a data.yaml.")
]
Columns = Annotated[
    str,
    typer.Option(help="Your column names: user_id=NAME,item_id=NAME.", show_default="ours"),
]
ServedArtifact = Annotated[str, typer.Option(help="The folder of the artifact.")]
Seed = Annotated[int, typer.Option(min=0, help="The seed of every random number.")]


def example(words: str) -> str:
    """The last line of a command's help. `words`: the example, without the name of the program."""
    return f"Example: rayfunnel {words}"
