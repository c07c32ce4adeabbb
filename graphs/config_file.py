"""Reads serve_config.yaml and checks the arguments of our applications, without Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from cluster.valkey import ValkeyConfig
from deployments.errors import ConfigError
from graphs.config import RecommenderArgs, parse_args

RECOMMENDER, STORE = "graphs.recommendation:build", "graphs.store:build"


ARGS: dict[str, type[BaseModel]] = {RECOMMENDER: RecommenderArgs, STORE: ValkeyConfig}
"""What the `args:` of each of our import paths must be."""


def read(path: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        ConfigError: the file is missing, or is no YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name an existing file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def load(path: str) -> dict[str, Any]:
    """The config file with the args of our applications checked.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds a wrong key or value.
    """
    return checked(read(path), path)


def checked(config: Any, path: str) -> dict[str, Any]:
    """A Serve config, once the args of our applications are checked; `path`: where it is from.

    Raises:
        ConfigError: a wrong key or value.
    """
    if not isinstance(config, dict) or not isinstance(config.get("applications"), list):
        raise ConfigError(f"{path}: `applications` must be a list, as in the serve_config.yaml of this repository")
    for application in config["applications"]:
        model = ARGS.get(application.get("import_path"))
        if model is not None:
            parse_args(model, application.get("args", {}))
    _check_ports(config)
    return config


def _check_ports(config: Mapping[str, Any]) -> None:
    """The recommender must look for the embedded store where the application `store` runs it."""
    ports = [
        parse_args(ValkeyConfig, app.get("args", {})).port
        for app in config["applications"]
        if app.get("import_path") == STORE
    ]
    for app in config["applications"]:
        if app.get("import_path") == RECOMMENDER:
            store = parse_args(RecommenderArgs, app.get("args", {})).store
            if ports and not store.redis_url and store.port not in ports:
                raise ConfigError(f"args.store.port is {store.port}, but the application store runs on {ports[0]}")


def recommender_args(config: Mapping[str, Any]) -> RecommenderArgs:
    """The args of the first recommender in a loaded config file.

    Raises:
        ConfigError: there is none.
    """
    for application in config["applications"]:
        if application.get("import_path") == RECOMMENDER:
            return parse_args(RecommenderArgs, application.get("args", {}))
    raise ConfigError(f"no application has the import_path {RECOMMENDER}; add one, as in serve_config.yaml")
