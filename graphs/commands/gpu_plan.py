"""`python -m graphs plan`: how stages share the GPUs of a cluster; a table, and an overlay for serve_config.yaml.

config + artifact + declared needs → needs → cluster/gpus/gpu_plan.py → table, overlay
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field
from rich.table import Table

from cluster.gpus.gpu_plan import GIB, MEMORY_GIB, MIB, MOST_GPUS, UNITS, Gpu, Need, Plan, StagePlan, plan, size
from deployments.api.schemas import MOST_GIVEN
from deployments.artifact.reader import Artifact
from deployments.errors import ConfigError
from deployments.replicas.gpu_share import CONTEXT_BYTES
from graphs.commands import gpu_footprint
from graphs.config import STAGES, RecommenderArgs, StageArgs, Strict, parse_args
from graphs.config_file import RECOMMENDER, load, recommender_args
from graphs.console import output_console
from monitoring.deep_merge import deep_merge

ASSUMED_COMPUTE = 0.25
"""Share of a GPU, for a stage without a declared one."""


class StageNeeds(Strict):
    """Declared needs of a stage; a value that is left out is measured, or taken from the config."""

    weights_mib: float | None = Field(None, ge=0, le=1e9, allow_inf_nan=False)
    """Memory of the weights."""
    row_kib: float | None = Field(None, ge=0, le=1e9, allow_inf_nan=False)
    """Memory of the activations, per request of a batch."""
    compute: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    """Share of the weakest GPU that a replica keeps busy."""
    fraction: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    """The stage's `num_gpus`; left out, it is chosen."""
    min_replicas: int | None = Field(None, ge=0, le=MOST_GPUS)
    """Fewest replicas."""
    max_replicas: int | None = Field(None, ge=0, le=MOST_GPUS)
    """Most replicas; 0: as many as fit."""
    max_rows: int | None = Field(None, ge=1, le=1_000_000)
    """Most requests that a replica joins."""


class NodesOfGpus(Strict):
    """Equal nodes with GPUs."""

    type: str
    """Type of the GPU."""
    nodes: int = Field(1, ge=1, le=MOST_GPUS)
    """Number of nodes."""
    per_node: int = Field(1, ge=1, le=64)
    """GPUs of a node."""
    gib: float | None = Field(None, gt=0, le=10_000, allow_inf_nan=False)
    """Memory of a GPU, for a type that cluster/gpus/gpu_plan.py does not list."""


class Declared(Strict):
    """The file of `--needs`."""

    gpus: tuple[NodesOfGpus, ...] = ()
    """The cluster's nodes, beside those of `--gpus`."""
    context_mib: float = Field(CONTEXT_BYTES / MIB, ge=CONTEXT_BYTES / MIB, le=1e6, allow_inf_nan=False)
    """Memory of CUDA in every process, outside torch's allocator. Replicas leave 512 MiB."""
    stages: dict[str, StageNeeds] = Field(default_factory=dict)
    """Needs by stage."""


def report(config_path: str, gpus: list[str], needs_path: str, out: str, merged: str) -> None:
    """Prints the plan and the overlay. `gpus`: TYPE:NODES or TYPE:NODESxGPUS; `out`, `merged`: files, '': none.

    Raises:
        ConfigError: an input is wrong, or there is no plan; the text names the stage and the remedy.
    """
    config = load(config_path)
    args = recommender_args(config)
    declared = _declared(needs_path)
    cards = [card for nodes in [*map(_nodes, gpus), *declared.gpus] for card in _cards(nodes)]
    if not cards:
        raise ConfigError("no GPUs to plan for; name them, as in --gpus L4:2 (two nodes) or T4:1x4 (one with four)")
    try:
        known = needs(args, declared)
        made = plan([need for need, _ in known], cards)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None
    over = overlay(config, args, made)
    merged_config = apply_overlay(config, over)
    recommender = recommender_args(merged_config)  # checks that the result can be deployed
    assert recommender.artifact == args.artifact
    console = output_console()
    console.print(_table(made, {need.stage: origin for need, origin in known}))
    console.print(_gpus(made))
    if not made.surge:
        console.print(
            "The minima fit once, not twice: a redeploy, which starts new replicas before the old ones stop, finds no "
            "room. Add GPUs, or delete the application first."
        )
    text = yaml.safe_dump(over, sort_keys=False)
    print(f"\n# overlay for {config_path}\n{text}")
    _write(out, text)
    _write(merged, yaml.safe_dump(merged_config, sort_keys=False))


def needs(args: RecommenderArgs, declared: Declared) -> list[tuple[Need, str]]:
    """Needs of the scoring stage, and of every other stage that is declared or has `num_gpus`; with their origin.

    Raises:
        ConfigError: a stage is unknown, runs in the ingress, or has no known size.
    """
    if unknown := sorted(set(declared.stages) - set(STAGES)):
        raise ConfigError(f"stages.{unknown[0]} is no stage; there are {', '.join(STAGES)}")
    found = []
    for name in STAGES:
        stage: StageArgs = getattr(args.stages, name)
        if name != "scoring" and name not in declared.stages and not stage.num_gpus:
            continue
        if stage.placement == "ingress":
            raise ConfigError(f"stages.{name}.placement is ingress, which has no GPU of its own; set it to replica")
        found.append(_need(name, stage, declared.stages.get(name, StageNeeds()), args, declared.context_mib))
    return found


def _need(name: str, stage: StageArgs, own: StageNeeds, args: RecommenderArgs, context_mib: float) -> tuple[Need, str]:
    weights, row = own.weights_mib, own.row_kib
    origin = "declared"
    if weights is None or row is None:
        if name != "scoring":
            raise ConfigError(f"stages.{name}: its size is not known; declare weights_mib and row_kib, or num_gpus: 0")
        measured_weights, measured_row = _measured(args)
        origin = "measured" if weights is None and row is None else "measured, declared"
        weights = measured_weights / MIB if weights is None else weights
        row = measured_row / 1024 if row is None else row
    compute = own.compute
    if compute is None:
        compute = min(ASSUMED_COMPUTE, own.fraction or 1.0)
        origin += "; compute assumed"
    most = own.max_replicas if own.max_replicas is not None else 0
    least = own.min_replicas if own.min_replicas is not None else stage.min_replicas
    if most and most < max(1, least):
        raise ConfigError(f"stages.{name}.max_replicas {most} is under min_replicas {least}; raise it, or leave it out")
    need = Need(
        stage=name,
        weights=round(weights * MIB),
        row=round(row * 1024),
        context=round(context_mib * MIB),
        rows=own.max_rows or max(stage.max_rows, args.batcher.max_batch),
        compute=compute,
        fraction=own.fraction or 0.0,
        min_replicas=least,
        max_replicas=most,
    )
    return need, origin


def _measured(args: RecommenderArgs) -> tuple[int, int]:
    """Bytes of the scorer: its weights, and a request with the most candidates."""
    scoring = args.stages.scoring
    candidates = max(args.stages.candidates.config.n_candidates, MOST_GIVEN)
    return gpu_footprint.scorer(Artifact.open(args.artifact), scoring.config.precision, candidates, scoring.concurrency)


def overlay(config: Mapping[str, Any], args: RecommenderArgs, made: Plan) -> dict[str, Any]:
    """The changes of the config file, for `apply_overlay`."""
    stages: dict[str, Any] = {}
    largest = args.batcher.max_batch
    for stage in made.stages:
        most = max(1, stage.max_replicas)
        stages[stage.need.stage] = {
            "num_gpus": stage.fraction,
            "replicas": min(max(1, stage.min_replicas), most),
            "min_replicas": stage.min_replicas,
            "max_replicas": most,
            "max_rows": stage.rows,
        }
        largest = min(largest, stage.rows)  # a stage never splits the batch of one caller
    changes: dict[str, Any] = {"stages": stages}
    if largest < args.batcher.max_batch:
        changes["batcher"] = {"max_batch": largest}
    name = next(app["name"] for app in config["applications"] if app.get("import_path") == RECOMMENDER)
    return {"applications": [{"name": name, "args": changes}]}


def apply_overlay(config: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the overlay `over` merged into it: applications by name, everything else by key."""
    changes = {app["name"]: app for app in over["applications"]}
    applications = [deep_merge(app, changes.get(app.get("name"), {})) for app in config["applications"]]
    return dict(config) | {"applications": applications}


def _declared(path: str) -> Declared:
    if not path:
        return Declared()
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name an existing file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping with gpus, stages or context_mib")
    return parse_args(Declared, content, where=f"{path}: ")


def _nodes(text: str) -> NodesOfGpus:
    """`TYPE:NODES` or `TYPE:NODESxGPUS`."""
    kind, _, amount = text.partition(":")
    nodes, _, each = (amount or "1").partition("x")
    if not (kind and nodes.isdecimal() and (each or "1").isdecimal()):
        raise ConfigError(f"--gpus {text}: must be TYPE:NODES or TYPE:NODESxGPUS, as in L4:2 or T4:1x4")
    fields = {"type": kind, "nodes": int(nodes), "per_node": int(each or 1)}
    return parse_args(NodesOfGpus, fields, where=f"--gpus {text}: ")


def _cards(nodes: NodesOfGpus) -> list[Gpu]:
    """One entry per GPU."""
    gib = nodes.gib or MEMORY_GIB.get(nodes.type)
    if gib is None:
        raise ConfigError(
            f"the memory of a {nodes.type!r} is not known; the types are {', '.join(MEMORY_GIB)}, others give "
            "their gib in the file of --needs"
        )
    if nodes.nodes * nodes.per_node > MOST_GPUS:
        raise ConfigError(f"{nodes.nodes * nodes.per_node:,} GPUs of type {nodes.type}; plan for at most {MOST_GPUS:,}")
    return [Gpu(nodes.type, round(gib * GIB))] * (nodes.nodes * nodes.per_node)


def _table(made: Plan, origins: Mapping[str, str]) -> Table:
    """A column per stage."""
    table = Table(title="GPU plan")
    table.add_column("a replica of")
    for stage in made.stages:
        table.add_column(stage.need.stage, justify="right")
    lines: dict[str, Callable[[StagePlan], str]] = {
        "weights": lambda stage: size(stage.need.weights),
        "activations": lambda stage: f"{stage.rows} rows of {size(stage.need.row)}",
        "context": lambda stage: size(stage.need.context),
        "memory": lambda stage: size(stage.used),
        "compute": lambda stage: f"{stage.need.compute:.0%}",
        "known from": lambda stage: origins[stage.need.stage],
        "num_gpus": lambda stage: f"{stage.fraction:g}",
        "per GPU": lambda stage: str(stage.per_gpu),
        "replicas": lambda stage: f"{stage.min_replicas} to {stage.max_replicas}",
        "max_rows": lambda stage: str(stage.rows),
    }
    for title, shown in lines.items():
        table.add_row(title, *map(shown, made.stages))
    return table


def _gpus(made: Plan) -> Table:
    """One line for all GPUs with the same load."""
    lines: dict[tuple[str, ...], int] = {}
    for card in made.gpus:
        on_it = ", ".join(f"{count} {name}" for name, count in sorted(card.replicas.items())) or "-"
        memory = f"{card.used / card.gpu.memory:.0%} of {card.gpu.memory / GIB:.1f} GiB"
        line: tuple[str, ...] = (card.gpu.name, on_it, memory, f"{card.compute:.0%}", f"{card.units / UNITS:g}")
        lines[line] = lines.get(line, 0) + 1
    table = Table(title="with all stages at their maximum")
    for title in ("GPUs", "type", "replicas", "memory", "compute", "num_gpus"):
        table.add_column(title, justify="left" if title in ("type", "replicas") else "right")
    for held, count in lines.items():
        table.add_row(str(count), *held)
    return table


def _write(path: str, text: str) -> None:
    if path:
        try:
            Path(path).write_text(text, "utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; name a file that can be written") from None
