"""The only home of metrics: declared in declarations.py, counted per replica in replica_metrics.py, added up over
replicas in aggregation.py.
"""
