"""Drift of live traffic from the model's reference: sampling.py draws requests, detector.py collects them into windows,
distances.py compares a window with the reference, verdicts.py makes the verdict. Imports nothing else of the project.
evidently_report.py is a program of its own. Start with detector.py.
"""
