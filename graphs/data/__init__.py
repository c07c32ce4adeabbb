"""What users bring: interactions, items and users become one checked, indexed Dataset. Start with dataset.py;
column_checks.py checks single columns, splits.py splits events by time, histories.py gives the stages their input. May
import deployments.
"""
