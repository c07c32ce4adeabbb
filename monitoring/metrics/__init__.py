"""The only home of metrics: declarations.py declares them, replica_metrics.py counts in one replica, snapshots.py holds
the messages, aggregation.py adds up the counters of all replicas. Imports nothing else of the project. Start with
declarations.py.
"""
