"""The table of all bounds says what the code does."""

from __future__ import annotations

import ast
import re

import pytest

from deployments.pipeline.overload import BOUNDS, Bound
from graphs.commands.docs import default_of, overload_page
from monitoring.alerts.prometheus import alerts
from monitoring.alerts.values import load
from monitoring.metrics.declarations import DECLARED
from tests.support.paths import ROOT

ALERTS = {alert.name for alert in alerts(load())}
NOTES = (ROOT / "benchmarks" / "NOTES.md").read_text("utf-8")
BY_BOUND = pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.bound)


@BY_BOUND
def test_every_bound_has_a_default_and_a_file_that_enforces_it(bound: Bound) -> None:
    assert default_of(bound.setting) is not None
    assert (ROOT / bound.enforced_in).is_file()


@BY_BOUND
def test_metric_and_alert_of_a_bound_exist(bound: Bound) -> None:
    if bound.metric:
        name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})?", bound.metric).groups()  # type: ignore[union-attr]
        metric = next(m for m in DECLARED.values() if m.name == name)
        assert set(re.findall(r"(\w+)=", labels or "")) <= set(metric.labels)
    if bound.alert:
        assert bound.alert in ALERTS


@BY_BOUND
def test_a_safety_bound_names_its_tests_and_a_gain_its_measurement(bound: Bound) -> None:
    if bound.kind == "safety":
        file, _, name = bound.evidence.partition("::")
        tests = ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
        assert name in {test.name for test in tests if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef)}
    else:
        assert bound.evidence
        assert bound.evidence in NOTES


def test_the_page_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "overload.md").read_text("utf-8")
    assert page == overload_page(), "run: python -m graphs docs"
