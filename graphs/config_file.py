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
"""The type of `args:` per import path of ours."""


def read(path: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        ConfigError: the file is missing, or is no YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        here = "" if Path(path).is_absolute() else f", or run this in the checkout of rayfunnel, not in {Path.cwd()}"
        raise ConfigError(f"{path}: {error.strerror}; name an existing file{here}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def load(path: str) -> dict[str, Any]:
    """The config file with the args of our applications checked.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds a wrong key or value.
    """
    return checked(read(path), path)


def checked(config: Any, path: str) -> dict[str, Any]:
    """Returns a Serve config after it has checked the args of our applications. `path`: its file, for errors.

    Raises:
        ConfigError: a wrong key or value.
    """
    applications = config.get("applications") if isinstance(config, dict) else None
    if not isinstance(applications, list) or not all(isinstance(each, dict) for each in applications):
        raise ConfigError(
            f"{path}: `applications` must be a list of mappings, as in the serve_config.yaml of this repository"
        )
    for import_path, model in ARGS.items():
        for args in _args_of(config, import_path):
            parse_args(model, args)
    _check_ports(config)
    found: dict[str, Any] = config
    return found


def _args_of(config: Mapping[str, Any], import_path: str) -> list[Any]:
    """The `args:` of every application with this import path."""
    return [app.get("args", {}) for app in config["applications"] if app.get("import_path") == import_path]


def _check_ports(config: Mapping[str, Any]) -> None:
    """The recommender must connect to the port of the application `store`, unless it has a Redis of its own."""
    ports = [parse_args(ValkeyConfig, args).port for args in _args_of(config, STORE)]
    for args in _args_of(config, RECOMMENDER):
        store = parse_args(RecommenderArgs, args).store
        if ports and not store.redis_url and store.port not in ports:
            raise ConfigError(f"args.store.port is {store.port}, but the application store runs on {ports[0]}")


def recommender_args(config: Mapping[str, Any]) -> RecommenderArgs:
    """The args of the first recommender in a loaded config file.

    Raises:
        ConfigError: there is none.
    """
    for args in _args_of(config, RECOMMENDER):
        return parse_args(RecommenderArgs, args)
    raise ConfigError(f"no application has the import_path {RECOMMENDER}; add one, as in serve_config.yaml")
