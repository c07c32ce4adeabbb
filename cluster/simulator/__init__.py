"""Simulates the funnel under a trace of requests, with any policy. May import cluster/autoscaling,
numpy and numba. Start with simulator.py; funnel.py is the simulated funnel, step.py the compiled step, traces.py the
traffic, reference_policies.py the policies to compare with.
"""
