"""Says which GPUs replicas were given: their own words, asked over Ray. Runs as a program until its stdin ends.

argv: the cluster's address. Per line of stdin, replica ids of the deployment named first; per line of stdout, for
each {"gpus": Ray's ids, "visible": what CUDA would see, "share": the fraction}.
"""

import json
import os
import sys

import ray

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what Ray prints is no answer
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
        found = []  # one of them has just ended
    print(json.dumps(found), file=answers, flush=True)
