"""The console that prints tables: as wide as the terminal; in a pipe or a file, wide enough for every cell."""

from __future__ import annotations

import sys

from rich.console import Console

PIPED_WIDTH = 1000
"""Columns. Rich takes 80 otherwise, or the terminal behind another stream, and cuts what is longer."""


def output_console(*, stderr: bool = False) -> Console:
    """A console on standard output, or on standard error."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH)
