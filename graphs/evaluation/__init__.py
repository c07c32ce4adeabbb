"""How good a trained artifact is: the funnel run offline (offline_funnel.py), its answers to held-out users judged
(metrics.py) beside tuned baselines, and its scoring backends compared (parity.py). Start with evaluate.py. May import
graphs.data, graphs.config and deployments.
"""
