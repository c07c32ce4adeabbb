"""Grafana dashboards: panels.py defines panels and queries, build.py generates the JSON files of this folder.
May import monitoring/alerts. Start with panels.py.
"""
