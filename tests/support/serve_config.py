"""The Serve config file as a dict, and copies of it with changes."""

from __future__ import annotations

import copy
from typing import Any

Config = dict[str, Any]


def application(config: Config, name: str) -> Config:
    """The entry of one application."""
    return next(app for app in config["applications"] if app["name"] == name)


def recommender_args(config: Config) -> Config:
    """The `args:` of the recommender."""
    args: Config = application(config, "recommender")["args"]
    return args


def changed(config: Config, **args: Any) -> Config:
    """A copy with other args of the recommender; `stages__ranking__config__diversity=0.5` sets a nested one."""
    config = copy.deepcopy(config)
    for path, value in args.items():
        *parents, last = path.split("__")
        node = recommender_args(config)
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config
