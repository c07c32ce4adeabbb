"""Where it runs: the autoscaling policy, its simulator, GPU sharing, Kubernetes manifests, and the embedded
store server (valkey.py). May import nothing of graphs, deployments or monitoring. Start with autoscaling/policy.py.
"""

from pathlib import Path

ENV_FILE = Path(__file__).with_name("serve.env")
"""Environment of every Ray process: Ray Serve's fast flags."""
PROFILES = Path(__file__).parent / "kubernetes" / "profiles"
"""Cluster profiles of `python -m graphs kuberay`, one file per name."""
