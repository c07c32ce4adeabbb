"""Benchmarks of autoscaling policies: simulated (study.py, limits.py) and live (flash.py). May import all packages.
Start with study.py; search.py has the policies and their search space, serve_law.py is Ray Serve's own law.
"""
