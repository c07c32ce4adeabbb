"""Grafana dashboards, generated: panels.py says what they show, build.py writes the JSON files beside it."""
