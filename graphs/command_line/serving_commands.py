"""The commands that serve and deploy: serve, deploy, check, kuberay."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from graphs.command_line.options import DEFAULT_CONFIG, ConfigArgument, example

app = typer.Typer()
PANEL = "Serving"


@app.command(rich_help_panel=PANEL, epilog=example("serve my_config.yaml"))
def serve(config: ConfigArgument = DEFAULT_CONFIG) -> None:
    """Check the config file, then serve it on this machine with the flags of cluster/serve.env, until interrupted."""
    # A new program in this process: the one that waits beside `serve run` stays small without what is imported here.
    os.execv(sys.executable, [sys.executable, "-m", "graphs.commands.serve", config])  # noqa: S606 - our own module


@app.command(rich_help_panel=PANEL, epilog=example("deploy my_config.yaml --address http://localhost:8265"))
def deploy(
    config: ConfigArgument = DEFAULT_CONFIG,
    address: Annotated[
        str,
        typer.Option(
            help="The address of the Ray dashboard.", show_default="RAY_DASHBOARD_ADDRESS, else http://localhost:8265"
        ),
    ] = "",
) -> None:
    """Check the config file, then deploy it with the model of now to a running Ray cluster."""
    from graphs.commands.deploy import deploy

    if status := deploy(config, address):
        raise typer.Exit(status)


@app.command(rich_help_panel=PANEL, epilog=example("check my_config.yaml --load"))
def check(
    config: ConfigArgument = DEFAULT_CONFIG,
    load: Annotated[
        bool, typer.Option("--load", help="Also load the artifact into every stage, and call the store.")
    ] = False,
    out: Annotated[
        str,
        typer.Option(
            help="The file to write the config to, with the model's version in it; implies --load.", show_default="none"
        ),
    ] = "",
) -> None:
    """Check every key and value of the config file, without Ray."""
    from graphs.config_file import load as read

    content = read(config)
    if load or out:
        from pathlib import Path

        from graphs.commands import pinned_config

        pinned = pinned_config.pinned(content)
        if out:
            pinned_config.write(pinned, Path(out))
    print(f"{config}: every key and value is as it should be")


@app.command(rich_help_panel=PANEL, epilog=example("kuberay --profile gpu --out rayservice.yaml"))
def kuberay(
    profile: Annotated[
        str, typer.Option(help="The cluster: cpu, gpu, or a file like cluster/kubernetes/profiles/cpu.yaml.")
    ] = "cpu",
    config: Annotated[str, typer.Option(help="The config file of the application.")] = DEFAULT_CONFIG,
    out: Annotated[str, typer.Option(help="The file to write; - is standard output.")] = "-",
) -> None:
    """Write a KubeRay RayService for Kubernetes from the config file and a profile of the cluster."""
    from graphs.commands.kuberay import write

    write(profile, config, out)
