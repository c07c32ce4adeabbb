"""The commands that compute and write, without serving: plan, simulate, docs."""

from __future__ import annotations

from typing import Annotated

import typer

from graphs.command_line.options import DEFAULT_CONFIG, ConfigArgument, Seed, example

app = typer.Typer()
PANEL = "Planning"


@app.command(rich_help_panel=PANEL, epilog=example("plan --gpus L4:2 --gpus T4:1x4 --out overlay.yaml"))
def plan(
    config: ConfigArgument = DEFAULT_CONFIG,
    gpus: Annotated[
        list[str] | None,
        typer.Option(
            help="GPUs of the cluster: TYPE:NODES or TYPE:NODESxGPUS; repeat it per type.", show_default="none"
        ),
    ] = None,
    needs: Annotated[
        str, typer.Option(help="A YAML file with known sizes of stages, GPUs and CUDA's context.", show_default="none")
    ] = "",
    out: Annotated[str, typer.Option(help="The file to write the overlay to.", show_default="none")] = "",
    merged: Annotated[str, typer.Option(help="The file to write the merged config to.", show_default="none")] = "",
) -> None:
    """Plan how the stages share GPUs: a table, and an overlay for the config file."""
    from graphs.commands.gpu_plan import report

    report(config, gpus or [], needs, out, merged)


@app.command(rich_help_panel=PANEL, epilog=example("simulate --trace flash10 --policy ours,oracle --rate 800"))
def simulate(
    trace: Annotated[
        str, typer.Option(help="The load: a name of cluster/simulator/traces.py, or a CSV of requests per second.")
    ] = "flash10",
    policy: Annotated[str, typer.Option(help="Policies, separated by commas; module:attribute names yours.")] = (
        "ours, knative, kubernetes, oracle"
    ),
    rate: Annotated[
        float, typer.Option(min=1, max=100_000, help="The requests per second before the load changes.")
    ] = 500,
    startup: Annotated[float, typer.Option(min=0, max=3600, help="The seconds until a new replica serves.")] = 5,
    seed: Seed = 1,
    out: Annotated[str, typer.Option(help="The PNG file to plot to; '' plots nothing.")] = "simulation.png",
) -> None:
    """Compare autoscaling policies under a trace of load, without a cluster."""
    from graphs.commands.simulate import report

    report(trace, [name.strip() for name in policy.split(",")], rate, startup, seed, out)


@app.command(rich_help_panel=PANEL, epilog=example("docs --out docs"))
def docs(context: typer.Context, out: Annotated[str, typer.Option(help="The folder to write.")] = "docs") -> None:
    """Write the pages under docs/ that are generated from the code."""
    from graphs.commands.docs import write

    write(out, context.find_root().command.commands)  # type: ignore[attr-defined]
