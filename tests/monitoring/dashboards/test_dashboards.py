"""The committed dashboards are those that the code builds, and query declared metrics."""

from __future__ import annotations

import json
import re

from monitoring.alerts.prometheus import rules
from monitoring.alerts.values import load
from monitoring.dashboards.__main__ import FOLDER
from monitoring.dashboards.build import rendered
from monitoring.dashboards.panels import dashboards
from monitoring.metrics.declarations import DECLARED


def test_the_committed_dashboards_are_those_of_the_code() -> None:
    shown = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    assert shown == rendered(load()), "python -m monitoring.dashboards writes them anew"


def test_every_panel_has_its_own_position_and_its_queries() -> None:
    for name, panels in dashboards(load()).items():
        board = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
        assert [panel["title"] for panel in board["panels"]] == [panel.title for panel in panels]
        positions = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(positions)) == len(positions), f"{name}: panels lie on one another"
        for shown, panel in zip(board["panels"], panels, strict=True):
            assert [target["expr"] for target in shown["targets"]] == [expr for _, expr in panel.queries]


def test_rules_and_dashboards_query_declared_metrics_only() -> None:
    exprs = [rule["expr"] for group in rules(load())["groups"] for rule in group["rules"]]
    exprs += [expr for panels in dashboards(load()).values() for panel in panels for _, expr in panel.queries]
    queried = {name for expr in exprs for name in re.findall(r"(?<![\w:])rayfunnel_\w+", expr)}
    assert len(queried) > 25
    declared = {metric.name: metric for metric in DECLARED.values()}
    parts = {f"{name}_{part}" for name, m in declared.items() if m.buckets for part in ("bucket", "count", "sum")}
    assert queried <= declared.keys() | parts
