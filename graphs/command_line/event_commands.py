"""The commands about the events of the store: events export."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from graphs.command_line.options import DEFAULT_CONFIG, example

PANEL = "Models"
LATEST_S = 4_102_444_800
"""The year 2100: the API takes no later event."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

app = typer.Typer(no_args_is_help=True)
events = typer.Typer(no_args_is_help=True)
app.add_typer(events, name="events", rich_help_panel=PANEL, help="Take the recorded events out of the store.")


def point_in_time(text: str, option: str) -> float:
    """Unix seconds of a point in time: ISO 8601 (UTC without an offset), Unix seconds, or an age such as `30d`.

    Raises:
        typer.BadParameter: it is none of them.
    """
    if age := re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhdw])", text):
        seconds = time.time() - float(age[1]) * _SECONDS[age[2]]
    elif re.fullmatch(r"\d{1,15}(?:\.\d+)?", text) and len(text) != 8:  # 20261201 is a date
        seconds = float(text)
    else:
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} is no time; give a date such as 2026-12-01 or 2026-12-01T08:30:00Z, Unix seconds, or an age "
                "such as 30d (s, m, h, d or w)",
                param_hint=option,
            ) from None
        seconds = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds <= LATEST_S:
        raise typer.BadParameter(
            f"{text!r} is not between 1970 and 2100; give Unix seconds, not milliseconds", param_hint=option
        )
    return seconds


@events.command(epilog=example("events export --since 30d --out exports/december"))
def export(
    since: Annotated[
        str, typer.Option(help="The first time: a date or time (ISO 8601), Unix seconds, or an age such as 30d.")
    ],
    out: Annotated[str, typer.Option(help="The new folder to write, for train --data.")],
    until: Annotated[
        str,
        typer.Option(
            help="The time before which events are taken, written as that of --since.", show_default="a minute ago"
        ),
    ] = "",
    config: Annotated[str, typer.Option(help="The config file that names the store.")] = DEFAULT_CONFIG,
) -> None:
    """Write the events of the store as Parquet, each once, as input for training."""
    # An event of just now may be recorded after the export has passed its user.
    first, last = point_in_time(since, "--since"), point_in_time(until, "--until") if until else time.time() // 1 - 60
    if first >= last:
        raise typer.BadParameter("it is not before --until", param_hint="--since")
    from graphs.commands.events_export import export
    from graphs.config_file import load, recommender_args

    export(recommender_args(load(config)).store, first, last, out)
