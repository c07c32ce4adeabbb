"""Asks replicas over Ray which GPUs they have. Runs as a program until its stdin ends.

argv: the cluster's address. A line of stdin: a deployment, then ids of its replicas. The line of stdout for it: per
replica {"gpus": Ray's ids, "visible": CUDA_VISIBLE_DEVICES, "share": the fraction}.
"""

import json
import os
import sys

import ray

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Ray prints to stdout
ray.init(address=sys.argv[1], log_to_driver=False, namespace="serve")


def devices(_: object) -> dict[str, object]:
    """Runs in the replica."""
    context = ray.get_runtime_context()
    return {
        "gpus": context.get_accelerator_ids()["GPU"],
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "share": context.get_assigned_resources().get("GPU", 0),
    }


for line in sys.stdin:
    deployment, *replica_ids = json.loads(line)
    try:
        actors = [ray.get_actor(f"SERVE_REPLICA::recommender#{deployment}#{replica}") for replica in replica_ids]
        found = ray.get([actor.__ray_call__.remote(devices) for actor in actors], timeout=30)
    except (ValueError, ray.exceptions.RayActorError):
        found = []  # a replica has just ended
    print(json.dumps(found), file=answers, flush=True)
