"""Tables in a pipe hold every cell in full, whatever the terminal's width."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import termios

import pytest

from tests.support.paths import ROOT

SCRIPT = """
from rich.table import Table
from graphs.console import output_console
table = Table("name", "value")
table.add_row("x" * 90, "y" * 200)
output_console({arguments}).print(table)
"""


def shown(stdout: int, stderr: int, arguments: str = "") -> None:
    """Prints a table that is 300 columns wide to the files."""
    subprocess.run(
        [sys.executable, "-c", SCRIPT.format(arguments=arguments)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        check=True,
    )


def read(file: int) -> str:
    """All that was written to the file."""
    text = b""
    try:
        while part := os.read(file, 65536):
            text += part
    except OSError:  # a terminal's end
        pass
    os.close(file)
    return text.decode()


@pytest.mark.parametrize("arguments", ["", "stderr=True"])
def test_a_table_in_a_pipe_is_whole_beside_a_narrow_terminal(arguments: str) -> None:
    """With only one of the two streams in a pipe, rich would take the width of the other's terminal."""
    reader, writer = os.pipe()
    main, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 60))
    shown(*((terminal, writer) if arguments else (writer, terminal)), arguments)
    os.close(writer)
    os.close(terminal)
    os.close(main)
    text = read(reader)
    assert "x" * 90 in text
    assert "y" * 200 in text


def test_a_table_on_a_terminal_is_as_wide_as_the_terminal() -> None:
    main, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 60))
    shown(terminal, terminal)
    os.close(terminal)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", read(main)).splitlines()
    assert max(map(len, lines)) == 60


def test_no_other_module_makes_a_console() -> None:
    makers = [
        str(path.relative_to(ROOT))
        for folder in ("graphs", "benchmarks", "monitoring", "deployments", "cluster")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if re.search(r"\bConsole\(", path.read_text("utf-8"))
    ]
    assert makers == ["graphs/console.py"]
