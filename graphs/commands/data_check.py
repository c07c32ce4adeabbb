"""`rayfunnel data check`: prints what a data set looks like, what is wrong in it, and whether it can be trained on."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from deployments.errors import DataError
from graphs.config import RecommenderArgs
from graphs.console import output_console
from graphs.data.dataset import load_dataset
from graphs.data.findings import DataFaults, counted
from graphs.data.profile import Profile, profile
from graphs.data.training_checks import check_trainable


def check_data(data: str, config: RecommenderArgs, columns: str) -> bool:
    """Prints the profile of `data`; whether it can be trained on with `config`."""
    console = output_console()
    try:
        dataset = load_dataset(data, config.events, columns)
    except DataError as error:
        return _refuse(console, data, error)
    found = profile(dataset, config.events)
    faults: DataFaults | None = None
    changes: list[str] = []
    try:
        changes = check_trainable(dataset, config)
    except DataFaults as error:
        faults = error
    _show(console, found)
    _list(console, "Read", [*dataset.notes, *changes])
    _list(console, "Warnings", found.warnings)
    if faults:
        return _refuse(console, data, faults)
    warned = f", {counted(len(found.warnings), 'warning')}" if found.warnings else ""
    _print(console, f"{data}: ready to train{warned}")
    return True


def _refuse(console: Console, data: str, error: DataError) -> bool:
    faults = error.faults if isinstance(error, DataFaults) else [str(error)]
    _list(console, "Faults", faults)
    _print(console, f"{data}: not ready to train: {counted(len(faults), 'fault')}")
    return False


def _show(console: Console, found: Profile) -> None:
    figures = Table(show_header=False, title="Data", title_justify="left")
    for name, text in found.figures.items():
        figures.add_row(name, text)
    console.print(figures)
    types = Table("type of event", "events", "weight", "successes", "seen", title="Events", title_justify="left")
    for row in found.types:
        types.add_row(row.name, f"{row.events:,}", row.weight, f"{row.successes:.0%}", row.seen)
    console.print(types)
    for table, features in found.features.items():
        columns = Table("column", "used as", "known", title=f"Features of {table}", title_justify="left")
        for name, kind, share in features:
            columns.add_row(name, "title" if name == "title" else kind, share)
        if features:
            console.print(columns)


def _list(console: Console, title: str, sentences: list[str]) -> None:
    if sentences:
        _print(console, f"\n{title}:")
    for sentence in sentences:
        _print(console, f"- {sentence}")


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
