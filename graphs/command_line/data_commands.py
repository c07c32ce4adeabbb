"""The commands about training data: data check."""

from __future__ import annotations

from typing import Annotated

import typer

from graphs.command_line.options import DEFAULT_CONFIG, Columns, example

app = typer.Typer(no_args_is_help=True)
PANEL = "Models"


@app.callback()
def data() -> None:
    """Look at training data before training."""


@app.command(epilog=example("data check my_data --columns user_id=customer,item_id=sku"))
def check(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="movielens, a folder with interactions, a file of them, or a data.yaml."),
    ],
    columns: Columns = "",
    config: Annotated[
        str, typer.Option(help="The config file that says what events mean, and how answers are ranked.")
    ] = DEFAULT_CONFIG,
) -> None:
    """Print what the data look like, what is used, what is wrong, and whether they can be trained on."""
    from graphs.commands.data_check import check_data
    from graphs.config_file import load, recommender_args

    if not check_data(data, recommender_args(load(config)), columns):
        raise typer.Exit(1)
