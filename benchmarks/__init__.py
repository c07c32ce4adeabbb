"""Measurements of rayfunnel and of its peers: `python -m benchmarks --help` lists the commands. RESULTS.md is
generated, NOTES.md has the negative results. May import everything; start with __main__.py.
"""
