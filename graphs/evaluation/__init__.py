"""What a trained artifact is worth: the funnel as served against tuned baselines on held-out events. Start with
report.py. May import graphs.fit and graphs.data.
"""
