"""How each model of the funnel is fitted, one file per model; graphs/training.py puts them together. Start with
retrieval.py, then ranker.py. May import graphs.data and deployments.
"""
