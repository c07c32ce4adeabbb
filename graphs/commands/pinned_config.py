"""The config file with the version of the model written into it.

Serve rebuilds an application only if its code or its args differ, so a model that was trained again into the same place
is a change of the args here: `artifact` is the folder of one version, and `model_version` is that of its manifest.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deployments.artifact.reader import is_remote
from graphs.config import RecommenderArgs, parse_args
from graphs.config_file import RECOMMENDER, recommender_args
from graphs.recommendation import check


def pinned(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a loaded config file, its recommenders checked with their artifacts and pinned to the models of now.

    Raises:
        ConfigError: an artifact does not fit the config, the store can't be reached, or there is no recommender.
    """
    recommender_args(config)
    found: dict[str, Any] = copy.deepcopy(dict(config))
    for app in found["applications"]:
        if app.get("import_path") == RECOMMENDER:
            args = parse_args(RecommenderArgs, app["args"])
            artifact = check(args)
            where = args.artifact if is_remote(args.artifact) else str(artifact.folder)
            app["args"] |= {"artifact": where, "model_version": artifact.model_version}
    return found


def models(config: Mapping[str, Any]) -> list[str]:
    """A sentence per recommender of a pinned config: its model, and where it is."""
    return [
        f"{app.get('name', 'recommender')}: model {app['args']['model_version']} of {app['args']['artifact']}"
        for app in config["applications"]
        if app.get("import_path") == RECOMMENDER
    ]


def write(config: Mapping[str, Any], path: Path) -> None:
    """Writes a pinned config, for its owner alone: it may hold the address of a Redis with its password."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)  # of a file that was there before as well
        file.write("# Made by rayfunnel from your config file, with the version of the model: change that file.\n")
        yaml.safe_dump(dict(config), file, sort_keys=False, width=120)
