"""What we see: metrics, drift, logs, alerts, dashboards. Each replica counts with metrics/, drift/ judges samples
of live traffic. Imports nothing of graphs, deployments or cluster. README.md says what to do on each alert.
"""
