"""README and docs/: links lead somewhere, the site needs nothing from outside, and tables say what the code does."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from math import inf
from pathlib import Path

import pytest
import yaml

from cluster.autoscaling.policy import PolicyConfig
from cluster.autoscaling.serve_adapter import AutoscalingPolicy
from deployments.api.access import AccessChain, Head, load_checks
from deployments.api.http import HttpConfig
from deployments.errors import ConfigError
from monitoring.alerts.prometheus import alerts
from monitoring.alerts.rule import Alert
from monitoring.alerts.values import load
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
BY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def without_code(text: str) -> str:
    """Markdown without its code blocks and spans."""
    return re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200


@BY_PAGE
def test_every_link_between_files_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@BY_PAGE
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """As code: `cluster/serve.env`. Paths below deployments/ are named without it in docs/request.md."""
    if page.name == "CHANGELOG.md":
        pytest.skip("it names files of earlier versions")
    roots = [ROOT, ROOT / "deployments"]
    named = re.findall(r"`((?:\w+/)+[\w.]+\.(?:py|md|yaml|yml|env|toml))`", page.read_text("utf-8"))
    assert [name for name in named if not any((root / name).is_file() for root in roots)] == []


class Loaded(HTMLParser):
    """What a browser loads for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag != "link" or given.get("rel") not in ("prev", "next", "canonical"):
            names = ("src", "srcset", "data", "poster") if tag != "link" else ("href",)
            self.urls += [url for name in names if (url := given.get(name))]


def test_the_site_is_built_strictly_and_loads_nothing_from_outside(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {page.stem for page in DOCS.glob("*.md")} <= {page.stem for page in tmp_path.glob("*.html")}
    for page in tmp_path.glob("*.html"):
        html = page.read_text("utf-8")
        loaded = Loaded()
        loaded.feed(html)
        assert [url for url in loaded.urls if "//" in url] == [], page.name
        assert 'class="mermaid"' not in html  # the theme would fetch its script
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", sheet.read_text("utf-8")), sheet.name


def test_the_table_of_the_policys_numbers_is_that_of_the_code() -> None:
    section = (DOCS / "autoscaling.md").read_text("utf-8").split("## The policy's numbers", 1)[1].split("\n## ", 1)[0]
    table = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE))
    arguments = inspect.signature(AutoscalingPolicy).parameters.values()
    defaults = {each.name: each.default for each in arguments if each.kind is not each.VAR_KEYWORD}
    passed_on = {field.name: field.default for field in dataclasses.fields(PolicyConfig)}
    for name in ("slo_s", "windows"):  # `slo_ms`, and the windows' own numbers, are arguments
        del passed_on[name]
    code = passed_on | defaults
    shown = {name: {inf: "no limit", None: "none"}.get(value, value) for name, value in code.items()}
    assert {name: value if isinstance(value, str) else f"{value:g}" for name, value in shown.items()} == table


def test_the_example_of_an_own_check_asks_for_the_key_except_on_health_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / "api.md").read_text("utf-8")
    example = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "need_key" in block)
    (tmp_path / "shop_auth.py").write_text(example, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SHOP_KEY", "secret")
    line = next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "checks" in block)
    config = HttpConfig.model_validate(yaml.safe_load(line)["http"])
    access = AccessChain(checks=load_checks(config.checks))

    def status(path: str, key: bytes) -> int:
        refusal = access.enter(Head("GET", path, [(b"authorization", key)] if key else [], None))
        return refusal.status_code if refusal else 200

    for path in ("/v1/recommend", "/metrics", "/demo/users", "/docs"):
        assert [status(path, key) for key in (b"", b"Bearer guessed", b"Bearer secret")] == [401, 401, 200]
    assert status("/v1/health/ready", b"") == 200
    with pytest.raises(ConfigError, match=r"http.checks: 'shop_auth:need_kee' can't be imported"):
        load_checks(["shop_auth:need_kee"])


def test_every_alert_says_page_or_ticket_and_after_how_long() -> None:
    fires: dict[str, list[Alert]] = {}
    for alert in alerts(load()):
        fires.setdefault(alert.name, []).append(alert)
    page = (DOCS / "alerts.md").read_text("utf-8")
    for name, rules in fires.items():
        said = f"*{rules[0].severity.capitalize()} after {' or '.join(rule.for_ for rule in rules)}.*"
        assert f"\n### {name}\n\n{said}\n" in page


def reasons_in_code() -> set[str]:
    """Every reason that a `StageFailed` is made with, and those that the pipeline writes itself."""
    text = "\n".join(path.read_text("utf-8") for path in (ROOT / "deployments").rglob("*.py"))
    raised = re.findall(r"StageFailed\([^,()]+, \"(\w+)\"", text)
    written = re.findall(r"degraded\.append\(f\"\{[\w.]+\}:(\w+)\"\)", text)
    return {*raised, *written}


def test_every_reason_of_degraded_has_a_row() -> None:
    section = (DOCS / "request.md").read_text("utf-8").split("## What `degraded` says", 1)[1]
    rows = set(re.findall(r"^\| `([\w/ ]+)` \|", section, re.MULTILINE))
    assert {"timeout", "deadline", "store", "lost"} <= reasons_in_code()
    assert rows == reasons_in_code() | {"3/4 shards"}
