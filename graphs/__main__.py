"""The command line: `rayfunnel --help`, or `python -m graphs --help`, lists the commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.main import get_command

from deployments.errors import FunnelError
from graphs.command_line import data_commands, event_commands, model_commands, planning_commands, serving_commands

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Run it in the checkout of rayfunnel: files are named from there. Example: rayfunnel serve",
)
app.add_typer(model_commands.app)
app.add_typer(data_commands.app, name="data", rich_help_panel=data_commands.PANEL)
app.add_typer(event_commands.app)
app.add_typer(serving_commands.app)
app.add_typer(planning_commands.app)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"rayfunnel {version('rayfunnel')}")
        raise typer.Exit


@app.callback()
def rayfunnel(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train, check, serve and deploy a recommendation funnel on Ray Serve."""


def main() -> int:
    """Runs the command that `sys.argv` names. Returns the exit status: 1 for errors of the user's, 2 for wrong usage,
    each with one line on stderr; 3 where a baseline beats the funnel.
    """
    try:
        return get_command(app).main(standalone_mode=False) or 0
    except FunnelError as error:
        return _refused(str(error), 1)
    except OSError as error:
        if error.filename is None:
            raise
        return _refused(f"{error.filename}: {error.strerror}; name a file that can be read or written", 1)
    except typer.TyperException as error:
        return _refused(error.format_message(), error.exit_code)


def _refused(message: str, status: int) -> int:
    if message:
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
