"""What users bring: interactions, items and users become one checked, indexed Dataset. Start with dataset.py.

sources.py finds the tables, readers.py opens them, columns.py names their columns. events.py and entities.py read the
tables; ids.py, times.py, event_columns.py and features.py their columns. training_checks.py and profile.py look at the
result; splits.py splits events by time, histories.py gives the stages their input. May import deployments.
"""
