"""Where it runs: the autoscaling policy, its simulator, GPU sharing, Kubernetes manifests, the embedded store
server. Imports nothing of graphs, deployments or monitoring. Start with autoscaling/policy.py.
"""

from pathlib import Path

ENV_FILE = Path(__file__).with_name("serve.env")
"""The flags that make Ray Serve fast."""
PROFILES = Path(__file__).parent / "kubernetes" / "profiles"
"""What `python -m graphs kuberay` needs to know of a cluster, by name."""
