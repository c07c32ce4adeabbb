"""Alerting rules of Prometheus and Alertmanager's routing, rendered from values.yaml into rendered/. Start with
values.py.
"""
