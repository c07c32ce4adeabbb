"""GPU sharing: how much of a GPU a replica of each stage takes, and how many replicas fit. May import the standard
library alone. Start with gpu_plan.py; `python -m graphs plan` (graphs/commands/gpu_plan.py) prints its result.
"""
