"""KubeRay manifests: ray_service.py renders one from a cluster profile (profiles/) and a Serve config;
bin_packing.py checks that the replicas fit on the workers.
"""
