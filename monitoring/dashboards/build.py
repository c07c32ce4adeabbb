"""Builds Grafana's JSON of the dashboards with Grafana's own builders (grafana-foundation-sdk, Grafana 11.6)."""

from __future__ import annotations

import json

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DashboardLinkType, DataSourceRef

from monitoring.alerts.values import AlertValues
from monitoring.dashboards.panels import Panel, dashboards

TAG = "rayfunnel"
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def rendered(values: AlertValues) -> dict[str, str]:
    """File name → JSON of a dashboard, to import or to provision."""
    return {f"{name}.json": _text(name, panels) for name, panels in dashboards(values).items()}


def _text(name: str, panels: list[Panel]) -> str:
    built = (
        dashboard.Dashboard(f"rayfunnel: {name}")
        .uid(f"rayfunnel-{name}")
        .tags([TAG])
        .editable()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .link(dashboard.DashboardLink("rayfunnel").type(DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True))
    )
    for panel in panels:
        built = built.with_panel(_panel(panel))
    return json.dumps(built.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    made: stat.Panel | timeseries.Panel
    if panel.stat:
        made = stat.Panel().height(4)
    else:
        legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
        made = timeseries.Panel().height(8).fill_opacity(5).legend(legend.show_legend(True))
    made = made.title(panel.title).description(panel.description).unit(panel.unit).span(panel.wide)
    made = made.datasource(_SOURCE)
    for at, (shown_as, expr) in enumerate(panel.queries):
        made = made.with_target(prometheus.Dataquery().ref_id(chr(ord("A") + at)).expr(expr).legend_format(shown_as))
    return made
