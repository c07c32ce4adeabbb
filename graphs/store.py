"""The application `store`: the embedded Valkey server. Leave it out when `redis_url` points at a Redis of your own.

It is a separate application, so that a redeploy of the recommender does not restart it.
"""

from typing import Any

from ray import serve

from cluster.valkey import ValkeyConfig, ValkeyError, ValkeySupervisor
from deployments.errors import ConfigError
from deployments.replicas.store_server import StoreServer
from graphs.builder_errors import in_one_sentence
from graphs.config import parse_args


def build(args: dict[str, Any]) -> serve.Application:
    """The deployment `Store`: one replica, which runs the server.

    Raises:
        ConfigError: a key or value is wrong, or the port is taken; field, value, remedy.
    """
    with in_one_sentence():
        config = parse_args(ValkeyConfig, args)
        try:
            ValkeySupervisor(config).refuse_taken_port()
        except ValkeyError as error:
            raise ConfigError(f"args.port: {error}") from error
    deployed = serve.deployment(name="Store", num_replicas=1, ray_actor_options={"num_cpus": 0.1})
    return deployed(StoreServer).bind(config)
