"""Metrics and drift inside a process; the arithmetic is in monitoring/. metrics_reporter.py sends a replica's counters,
durable_aggregator.py keeps the totals in the store; drift_client.py samples at the ingress, drift_server.py answers in
the drift actor. May import pipeline, store, artifact and messages; no Ray. Start with metrics_reporter.py.
"""
