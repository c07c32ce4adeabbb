"""`python -m graphs docs`: the generated pages are those of the code, and every key is on one."""

from __future__ import annotations

import math
import operator
import re
from pathlib import Path

import pytest
from typer.main import get_command

from deployments.pipeline.overload import BOUNDS
from graphs.__main__ import app
from graphs.commands.commands_page import commands_page, without_groups
from graphs.commands.configuration_page import configuration_page
from graphs.commands.docs import CONFIG, SUMS, value_of, write
from graphs.config import RecommenderArgs, parse_args
from graphs.config_file import load, recommender_args
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def page() -> str:
    return configuration_page(str(ROOT / "serve_config.yaml"))


def test_the_committed_pages_are_those_of_the_code(tmp_path: Path) -> None:
    write(str(tmp_path), COMMANDS)
    for made in tmp_path.iterdir():
        assert (DOCS / made.name).read_text("utf-8") == made.read_text("utf-8"), "run: python -m graphs docs"


def test_every_command_has_a_section_with_its_options_and_an_example() -> None:
    page = commands_page(COMMANDS)
    for name, command in without_groups(COMMANDS):
        section = page.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
        assert f"\nrayfunnel {name}" in section
        assert section.count("\n| `") == len(command.params) > 0
    assert "| `--precision` | that of the config | The precision of scoring. One of `auto`, `fp32`" in page
    assert "| `--rate` | `500` | The requests per second before the load changes. At least 1, at most 100,000." in page


def test_a_sum_of_settings_is_said_as_it_is_computed() -> None:
    args = recommender_args(load(CONFIG))
    paths = {bound.setting for bound in BOUNDS if ":" not in bound.setting}
    for setting in paths:
        *parents, name = setting.split(".")
        model = operator.attrgetter(".".join(parents))(args) if parents else args
        assert (name in type(model).model_fields) == (setting not in SUMS), setting
    for setting, words in SUMS.items():
        terms = [
            math.prod(int(one) if one.isdigit() else int(str(value_of(one, args))) for one in term.split(" * "))
            for term in words.split(" + ")
        ]
        assert sum(terms) == value_of(setting, args)


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The table under a heading: key → its other cells."""
    section = page.split(f"### {heading}\n", 1)[1].split("\n### ", 1)[0]
    cells = [
        [cell.strip() for cell in line[1:-1].split("|")] for line in section.splitlines() if line.startswith("| `")
    ]
    return {first.strip("`"): rest for first, *rest in cells}


def test_a_row_says_type_bounds_default_shipped_value_and_meaning(page: str) -> None:
    deadline, in_flight = rows(page, "`pipeline`")["deadline_ms"], rows(page, "`batcher`")["in_flight"]
    assert deadline == ["integer, 10 to 60,000", "`500`", "", "Deadline of a request that names none."]
    assert in_flight[:3] == ["integer, 1 to 64", "`4`", "`2`"]


def test_what_all_stages_have_comes_once_with_the_shipped_values_of_each(page: str) -> None:
    assert rows(page, "`stages.<name>`")["num_cpus"][2] == "candidates `0.2`, scoring `0.2`, ranking `0.1`"
    assert list(rows(page, "`stages.scoring`")) == ["config"]
    assert set(rows(page, "`stages.candidates`")) == {"shards", "config"}


def test_models_in_lists_mappings_and_options_have_sections(page: str) -> None:
    for heading in ("`stages.ranking.config.rules[]`", "`http.cors`", "needs `stages.<name>`", "profile `workers.cpu`"):
        assert rows(page, heading)


def test_a_model_without_values_of_its_own_has_one_section_that_all_link_to(page: str) -> None:
    profile = rows(page, "Profile")
    assert profile["histories"][0] == profile["gcs"][0] == "[section](#profile-histories)"
    assert "### profile `gcs`" not in page


def test_every_row_has_a_meaning_and_no_heading_comes_twice(page: str) -> None:
    table = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(table) > 200
    assert [line for line in table if line[:-1].rsplit("|", 1)[1].strip() == ""] == []
    headings = re.findall(r"^#+ .+$", page, re.MULTILINE)
    assert len(headings) == len(set(headings))


def test_the_example_is_accepted(page: str) -> None:
    assert "pipeline: {deadline_ms: 300}" in page
    assert parse_args(RecommenderArgs, {"artifact": "a", "pipeline": {"deadline_ms": 300}}).pipeline.deadline_ms == 300
