"""KubeRay manifests. May import pydantic and yaml, nothing else of cluster. Start with ray_service.py: it renders a
manifest from a cluster profile (cluster_profile.py, profiles/) and a Serve config; bin_packing.py checks that the
replicas fit on the workers. `python -m graphs kuberay` (graphs/commands/kuberay.py) is the command.
"""
