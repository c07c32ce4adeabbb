"""Autoscaling policies, simulated and live."""
