"""What is measured, against whom: `python -m benchmarks --help` lists the commands, RESULTS.md is generated,
NOTES.md says what was tried.
"""
