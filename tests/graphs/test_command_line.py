"""The command line: help for every command and option, wrong usage in a sentence, and nothing large for `--help`."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from deployments.models.backends.precision import AnyPrecision
from deployments.models.backends.selection import Backend
from graphs.__main__ import app, main
from tests.support.paths import ROOT

COMMANDS = [
    "check",
    "deploy",
    "docs",
    "evaluate",
    "events",
    "kuberay",
    "package",
    "plan",
    "reference",
    "serve",
    "simulate",
    "train",
]
LARGE = ("faiss", "numba", "numpy", "pandas", "pyarrow", "ray", "scipy", "torch", "yaml")
"""Not pydantic: typer reads options with it."""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line with these words; (exit status, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rayfunnel", *words])
        status = main()
        out, err = capsys.readouterr()
        return status, out, err

    return run


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words, those of groups too."""
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


EVERY = [pytest.param(words, command, id=" ".join(words)) for words, command in commands()]


def test_no_command_was_lost() -> None:
    assert set(COMMANDS) <= {words[0] for words, _ in commands()}


@pytest.mark.parametrize(("words", "command"), EVERY)
def test_every_command_and_option_has_a_sentence_a_default_and_an_example(
    run: Run, words: tuple[str, ...], command: Any
) -> None:
    status, out, err = run(*words, "--help")
    assert (status, err) == (0, "")
    assert command.help.endswith(".")
    assert command.epilog.startswith(f"Example: rayfunnel {' '.join(words)}")
    assert "…" not in out, "nothing is cut at 80 columns"
    for param in command.params:
        assert param.help.endswith("."), param.name
    optional = [
        param
        for param in command.params
        if not param.required and (not getattr(param, "is_flag", False) or param.secondary_opts)
    ]
    assert out.count("[default: ") == len(optional)
    assert out.count("[required]") == sum(param.required for param in command.params)


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("train", "-h")])
def test_both_names_of_help_work(run: Run, words: tuple[str, ...]) -> None:
    status, out, _ = run(*words)
    assert status == 0
    assert "Usage: " in out


def test_without_a_command_the_help_is_shown_as_wrong_usage(run: Run) -> None:
    status, out, err = run()
    assert (status, err) == (2, "")
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trian", "No such command 'trian'. Did you mean 'train'?"),
        ("deploi", "No such command 'deploi'."),
        ("train --sed 3", "No such option: --sed (Possible options: --seed)"),
        ("train more", "Got unexpected extra argument(s) (more)"),
        ("train --seed 1.5", "Invalid value for '--seed': Input should be a valid integer"),
        ("train --seed -1", "Invalid value for '--seed': Input should be greater than or equal to 0"),
        ("simulate --rate many", "Invalid value for '--rate': Input should be a valid number"),
        ("simulate --rate nan", "Invalid value for '--rate': Input should be "),
        ("simulate --rate 0", "Invalid value for '--rate': Input should be greater than or equal to 1"),
        ("simulate --startup inf", "Invalid value for '--startup': Input should be less than or equal to 3600"),
        ("package", "Missing argument 'ARTIFACT'."),
        ("package x --backend onnx", "'onnx' is not one of 'eager', 'compiled', 'tensorrt'"),
        ("reference --out x", "Missing option '--live'."),
        ("docs --out", "Option '--out' requires an argument."),
        ("events export --out x", "Missing option '--since'."),
        ("events export --since yesterday --out x", "'yesterday' is no time; give a date such as 2026-12-01 or "),
        ("events export --since 1764547200000 --out x", "is not between 1970 and 2100; give Unix seconds, not "),
        ("events export --since 1d --until 2d --out x", "--since: it is not before --until"),
        ("serve one.yaml two.yaml", "Got unexpected extra argument(s) (two.yaml)"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(run: Run, words: str, sentence: str) -> None:
    status, out, err = run(*words.split())
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_an_error_of_the_users_is_one_sentence_and_status_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run("check")
    assert (status, out) == (1, "")
    assert err == (
        "error: serve_config.yaml: No such file or directory; name an existing file, or run this in the checkout of "
        f"rayfunnel, not in {tmp_path}\n"
    )


def test_a_file_that_can_not_be_written_is_named(run: Run, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    status, out, err = run("docs", "--out", str(blocked / "docs"))
    assert (status, out) == (1, "")
    assert err == f"error: {blocked / 'docs'}: Not a directory; name a file that can be read or written\n"


def test_check_says_that_all_is_well(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run("check") == (0, "serve_config.yaml: every key and value is as it should be\n", "")


def test_the_version_is_that_of_the_package(run: Run) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"rayfunnel": "graphs.__main__:main"}
    assert run("--version") == (0, f"rayfunnel {project['version']}\n", "")


def test_the_backends_and_precisions_are_those_of_scoring() -> None:
    package = dict(commands())[("package",)]
    choices = {param.name: param.type_descriptor.choices for param in package.params}
    assert choices["backend"] == get_args(Backend)
    assert set(choices["precision"]) == {name for part in get_args(AnyPrecision) for name in get_args(part)}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["train", "--help"], ["trian"]])
def test_help_and_refusals_load_nothing_large(words: list[str]) -> None:
    script = (
        f"import sys\nfrom graphs.__main__ import main\nsys.argv = ['rayfunnel', *{words}]\nmain()\n"
        f"print('loaded:', [name for name in {LARGE} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_the_shell_completes_commands_and_options() -> None:
    script = "import sys\nfrom graphs.__main__ import main\nsys.argv = ['rayfunnel']\nmain()"
    for typed, completed in {"rayfunnel tr": ["train"], "rayfunnel package x --ba": ["--backend"]}.items():
        flags = {
            "_RAYFUNNEL_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(typed.split()) - 1),
        }
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=os.environ | flags, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == completed
