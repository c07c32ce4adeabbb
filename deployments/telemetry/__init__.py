"""A replica's side of metrics and drift: what it counts and samples, and how it sends that to the metrics hub and
the drift actor. The arithmetic is in monitoring/. Knows no Ray.
"""
