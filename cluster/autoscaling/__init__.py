"""The autoscaling policy: replicas of all stages from the request rate at the ingress. policy.py decides and needs
the standard library alone; serve_adapter.py connects it to Ray Serve, and alone imports ray.
"""
