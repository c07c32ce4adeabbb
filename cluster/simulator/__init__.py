"""Simulates the funnel under a trace of requests, with any policy. Start with simulator.py; traces.py makes the
traffic, reference_policies.py holds the policies to compare with.
"""
