"""Drift of live traffic: sampling.py draws requests, monitor.py compares windows with the reference, verdicts.py
decides. Numpy only; evidently_report.py is a program of its own.
"""
