"""What we see: metrics, drift, logs, alerts, dashboards. A metric is declared in metrics/declarations.py; drift/ judges
samples of live traffic; logs/ formats log lines. Imports nothing of graphs, deployments or cluster. docs/alerts.md says
what to do on each alert. Start with metrics/declarations.py.
"""
