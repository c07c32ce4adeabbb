"""The application `store`: the embedded Valkey server. Leave it out when `redis_url` points at a Redis of your own.

It is an application of its own so that redeploying the recommender leaves it alone.
"""

# No `from __future__ import annotations`: Serve needs the class of `args`, not its name.
from ray import serve

from cluster.valkey import ValkeyConfig
from deployments.store_server import StoreServer


def build(args: ValkeyConfig) -> serve.Application:
    """`Store` (the one replica that runs the server)."""
    deployed = serve.deployment(name="Store", num_replicas=1, ray_actor_options={"num_cpus": 0.1})
    return deployed(StoreServer).bind(args)
