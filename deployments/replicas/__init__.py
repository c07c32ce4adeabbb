"""The Serve deployments and actors; the only folder of deployments that imports ray. It may import every other
folder. Start with ingress.py (HTTP and handle calls) and stage_replica.py (one stage).
"""
