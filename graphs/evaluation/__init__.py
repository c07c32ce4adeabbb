"""How good a trained artifact is: the funnel run offline (offline_funnel.py), its answers to held-out users
(ranking_quality.py; NDCG itself is monitoring/drift/ranking_metrics.py) beside tuned baselines, and its scoring
backends against the plain model (parity_measurement.py). Start with evaluate.py. May import graphs.data,
graphs.config and deployments.
"""
