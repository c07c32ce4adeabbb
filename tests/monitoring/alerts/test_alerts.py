"""Alerts by Prometheus' and Alertmanager's own tools: each fires, resolves, and does not fire in near cases."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphs import config_file
from monitoring.alerts.__main__ import RENDERED, main, rendered
from monitoring.alerts.prometheus import alerts, rules
from monitoring.alerts.rule import Rule
from monitoring.alerts.values import AlertValues, load
from tests.support.alert_cases import CASES, Case, Levels
from tests.support.monitors import tool
from tests.support.paths import ROOT

RUNBOOK = ROOT / "docs" / "alerts.md"


def run(*command: str | Path) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def values() -> AlertValues:
    return load()


def rule_of(case: Case, values: AlertValues) -> Rule:
    window = case.labels.get("window")
    return next(
        alert.rule(values.runbook)
        for alert in alerts(values)
        if alert.name == case.alert and alert.labels.get("window") == window
    )


def expected(rule: Rule, case: Case) -> dict[str, Any]:
    """The alert as promtool must see it, with the templates of its annotations filled in."""

    def filled(text: str) -> str:
        for name, value in case.labels.items():
            text = text.replace(f"{{{{ $labels.{name} }}}}", value)
        return re.sub(r"{{ \$value [^}]*}}", case.value, text)

    annotations = {name: filled(text) for name, text in rule["annotations"].items()}
    return {"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": annotations}


def timeline(case: Case, rule: Rule, phases: list[tuple[Levels, int]], fires: tuple[bool, ...]) -> dict[str, Any]:
    """A test of promtool: at the end of each phase the alert fires, or not."""
    ends, end = [], 0
    for _, steps in phases:
        end += steps
        ends.append((end - 1) * case.step_s)
    return {
        "interval": f"{case.step_s}s",
        "input_series": case.series(phases),
        "alert_rule_test": [
            {
                "eval_time": f"{at}s",
                "alertname": case.alert,
                "exp_alerts": [expected(rule, case)] if fire else [],
            }
            for at, fire in zip(ends, fires, strict=True)
        ],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_alert_fires_and_resolves_and_does_not_fire_in_near_cases(
    case: Case, values: AlertValues, tmp_path: Path
) -> None:
    promtool = tool("promtool")
    rule = rule_of(case, values)
    needed = [r for group in rules(values)["groups"] for r in group["rules"] if r.get("record", "") in rule["expr"]]
    groups = [{"name": "tested", "rules": [*(r for r in needed if "record" in r), rule]}]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    before, during, after = case.steps
    there_and_back: list[tuple[Levels, int]] = [(case.normal, before), (case.failing, during), (case.normal, after)]
    tests = [timeline(case, rule, there_and_back, (False, True, False))]
    tests += [timeline(case, rule, [(state, before + during)], (False,)) for state in case.near]
    suite = {"rule_files": ["rules.yaml"], "evaluation_interval": f"{case.step_s}s", "tests": tests}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(suite))
    run(promtool, "test", "rules", tmp_path / "test.yaml")


def test_every_alert_except_the_watchdog_has_a_case(values: AlertValues) -> None:
    declared = {(alert.name, alert.labels.get("window")) for alert in alerts(values)}
    assert declared - {(case.alert, case.labels.get("window")) for case in CASES} == {("RayfunnelWatchdog", None)}
    watchdog = next(alert for alert in alerts(values) if alert.name == "RayfunnelWatchdog")
    assert (watchdog.expr, watchdog.severity) == ("vector(1)", "watchdog")


def test_the_rendered_files_are_those_of_the_values(values: AlertValues) -> None:
    shown = {path.name: path.read_text("utf-8") for path in RENDERED.iterdir()}
    assert shown == rendered(values), "python -m monitoring.alerts renders them anew"


def test_queue_thresholds_equal_the_batchers_limits_in_serve_config(values: AlertValues) -> None:
    config = config_file.load(str(ROOT / "serve_config.yaml"))
    batcher = config_file.recommender_args(config).batcher
    assert (values.queue.bound, values.queue.floor) == (batcher.max_queue, batcher.max_batch)


def test_prometheus_accepts_the_rendered_files() -> None:
    run(tool("promtool"), "check", "config", RENDERED / "prometheus.yaml")


def test_own_values_override_defaults_and_wrong_values_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def render(own: str) -> int:
        (tmp_path / "own.yaml").write_text(own)
        command = ["monitoring.alerts", "--values", str(tmp_path / "own.yaml"), "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", command)
        return main()

    assert render("{store: {for: 5s}, drift: {enabled: false}}") == 0
    found = {r["alert"]: r for g in yaml.safe_load((tmp_path / "out" / "rules.yaml").read_text())["groups"]
             for r in g["rules"] if "alert" in r}  # fmt: skip
    assert found["RayfunnelStoreDown"]["for"] == "5s"
    assert not [name for name in found if "Drift" in name]
    for wrong, message in (
        ("{store: {for: 5}}", "for"),
        ("{slo: {latency: {threshold_s: 0.3}}}", "bucket"),
        ("{slo: {latency: {objective: 0.9}}}", "14.4 times too fast"),
        ("{traffic: {errors: 2}}", "errors"),
        ("{treshold: 1}", "treshold"),
    ):
        assert render(wrong) == 1
        assert message in capsys.readouterr().err


def test_every_alert_links_its_section_in_the_runbook(values: AlertValues) -> None:
    assert values.runbook == str(RUNBOOK.relative_to(ROOT))
    text = RUNBOOK.read_text("utf-8")
    found = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=\n\n|\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(found) == {alert.name for alert in alerts(values)}
    for name, paragraph in found.items():
        assert len(paragraph) > 100, f"{name}: what meaning, what to look at, what to do"
    for alert in alerts(values):
        assert alert.rule(values.runbook)["annotations"]["runbook_url"] == f"{values.runbook}#{alert.name.lower()}"
