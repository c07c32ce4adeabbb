"""Prometheus' alerting rules and Alertmanager's routes, rendered from values.yaml into rendered/. Alerts: slo.py,
application.py, drift.py, self_monitoring.py. May import monitoring/metrics. Start with values.py, its schema.
"""
